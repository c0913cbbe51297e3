package vpn

import (
	"net/netip"

	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
	"top/lib/wire"
)

// What the two ends of a tunnel say (docs/wire.md, "Tunnel"): one datagram each, from
// and to the control port of their inner addresses. All of it may be lost or come
// twice; whoever waits says it again.
const (
	mOpen    = 'O' // client: a ticket
	mAccept  = 'A' // exit: the ticket, signed, and the terms
	mVoucher = 'V' // client: a renewal
	mTaken   = 'W' // exit: the number of a voucher that it took
	mTick    = 'T' // client: ticks and a report
	mState   = 'S' // exit: its counters; the answer to a tick and a ping, and said by itself
	mPing    = 'P' // client
	mBye     = 'B' // client: the session is over
	mReceipt = 'R' // exit: the receipt; client: asks for it
	mPeer    = 'L' // client: lends its session to a stock WireGuard client
	mFault   = 'F' // exit: why not
)

// maxMessage is what fits an inner MTU of 1,280 over IPv6.
const maxMessage = 1280 - 48

// opening begins a session.
type opening struct {
	Ref    uint64
	Key    wg.Key // the client's
	Ticket []byte
	Lend   wg.Key // the stock client that the session pays for; zero is none
}

func (m opening) encode() []byte {
	var e wire.Encoder
	e.Byte(mOpen)
	e.Uint(m.Ref)
	e.Raw(m.Key[:])
	e.Bytes(m.Ticket)
	e.Raw(m.Lend[:])
	return e.Out()
}

func (m *opening) decode(b []byte) error {
	d := wire.Decode(b, maxMessage)
	d.Byte()
	m.Ref = d.Uint()
	d.Fill(m.Key[:])
	m.Ticket = d.Bytes(maxMessage)
	d.Fill(m.Lend[:])
	return d.End()
}

// accepted is the exit's answer: the session stands.
type accepted struct {
	Ref    uint64
	Ticket []byte
	Inner4 netip.Addr // the client's, or of the stock client
	DNS    []netip.Addr
	MTU    uint32
	Class  string
	Own    bool
	Claims []session.Claim // what the channel showed before: a payer that forgot goes on from it
}

func (m accepted) encode() []byte {
	var e wire.Encoder
	e.Byte(mAccept)
	e.Uint(m.Ref)
	e.Bytes(m.Ticket)
	putAddr(&e, m.Inner4)
	e.Uint(uint64(len(m.DNS)))
	for _, a := range m.DNS {
		putAddr(&e, a)
	}
	e.Uint(uint64(m.MTU))
	e.String(m.Class)
	e.Bool(m.Own)
	e.Uint(uint64(len(m.Claims)))
	for _, c := range m.Claims {
		e.Bytes(c.Encode())
	}
	return e.Out()
}

func (m *accepted) decode(b []byte) error {
	d := wire.Decode(b, maxMessage)
	d.Byte()
	m.Ref, m.Ticket = d.Uint(), d.Bytes(maxMessage)
	m.Inner4 = getAddr(d)
	m.DNS = make([]netip.Addr, d.Count(4, 4))
	for i := range m.DNS {
		m.DNS[i] = getAddr(d)
	}
	m.MTU, m.Class, m.Own = d.Uint32(), d.String(32), d.Bool()
	m.Claims = make([]session.Claim, d.Count(4, 64))
	for i := range m.Claims {
		if err := m.Claims[i].Decode(d.Bytes(maxMessage)); err != nil {
			d.Fail("claim: %v", err)
		}
	}
	return d.End()
}

// putAddr appends a length, 0, 4 or 16, and an address.
func putAddr(e *wire.Encoder, a netip.Addr) { e.Bytes(a.AsSlice()) }

func getAddr(d *wire.Decoder) netip.Addr {
	b := d.Bytes(16)
	a, ok := netip.AddrFromSlice(b)
	if !ok && len(b) > 0 || a.Is4In6() {
		d.Fail("an address of %d bytes", len(b))
	}
	return a
}

// ticking is ticks, and what the client saw: of Sent bytes that the exit said it had
// sent, Got came and were asked for; Up is what the client sent.
type ticking struct {
	Session top.SessionID
	Ticks   []session.Tick
	Up      uint64
	Sent    uint64
	Got     uint64
}

func (m ticking) encode() []byte {
	var e wire.Encoder
	e.Byte(mTick)
	e.Raw(m.Session[:])
	e.Uint(m.Up)
	e.Uint(m.Sent)
	e.Uint(m.Got)
	e.Uint(uint64(len(m.Ticks)))
	for _, t := range m.Ticks {
		e.Bytes(t.Encode())
	}
	return e.Out()
}

func (m *ticking) decode(b []byte) error {
	d := wire.Decode(b, maxMessage)
	d.Byte()
	d.Fill(m.Session[:])
	m.Up, m.Sent, m.Got = d.Uint(), d.Uint(), d.Uint()
	m.Ticks = make([]session.Tick, d.Count(session.MaxAnchors, 34))
	for i := range m.Ticks {
		if err := m.Ticks[i].Decode(d.Bytes(128)); err != nil {
			d.Fail("tick: %v", err)
		}
	}
	if d.Err() == nil && m.Got > m.Sent {
		d.Fail("%d bytes came of %d", m.Got, m.Sent)
	}
	return d.End()
}

// state is what the exit counted.
type state struct {
	Nonce   uint64 // of the ping that it answers; 0 is said by itself
	Session top.SessionID
	Up      uint64 // bytes that came from the client
	Down    uint64 // bytes sent to it
	Limit   uint64 // up to which both together are served
	Units   uint64 // paid
	Why     string // why it serves no more; "" is nothing
}

func (m state) encode() []byte {
	var e wire.Encoder
	e.Byte(mState)
	e.Uint(m.Nonce)
	e.Raw(m.Session[:])
	e.Uint(m.Up)
	e.Uint(m.Down)
	e.Uint(m.Limit)
	e.Uint(m.Units)
	e.String(m.Why)
	return e.Out()
}

func (m *state) decode(b []byte) error {
	d := wire.Decode(b, maxMessage)
	d.Byte()
	m.Nonce = d.Uint()
	d.Fill(m.Session[:])
	m.Up, m.Down, m.Limit, m.Units = d.Uint(), d.Uint(), d.Uint(), d.Uint()
	m.Why = d.String(512)
	return d.End()
}

// ping asks for the state of a session, or, with a zero session, whether anybody is
// there.
type ping struct {
	Nonce   uint64
	Session top.SessionID
}

func (m ping) encode() []byte {
	var e wire.Encoder
	e.Byte(mPing)
	e.Uint(m.Nonce)
	e.Raw(m.Session[:])
	return e.Out()
}

func (m *ping) decode(b []byte) error {
	d := wire.Decode(b, maxMessage)
	d.Byte()
	m.Nonce = d.Uint()
	d.Fill(m.Session[:])
	return d.End()
}

// told is a kind, a session and some bytes: a voucher and its acknowledgement, a
// receipt, the end of a session.
type told struct {
	Kind    byte
	Session top.SessionID
	Body    []byte
}

func (m told) encode() []byte {
	var e wire.Encoder
	e.Byte(m.Kind)
	e.Raw(m.Session[:])
	e.Bytes(m.Body)
	return e.Out()
}

func (m *told) decode(b []byte) error {
	d := wire.Decode(b, maxMessage)
	m.Kind = d.Byte()
	d.Fill(m.Session[:])
	m.Body = d.Bytes(maxMessage)
	return d.End()
}

// taken acknowledges a voucher. A number above the one that was sent, with claims, says
// that the payer forgot some.
type taken struct {
	Session top.SessionID
	Seq     uint64
	Claims  []session.Claim
}

func (m taken) encode() []byte {
	var e wire.Encoder
	e.Byte(mTaken)
	e.Raw(m.Session[:])
	e.Uint(m.Seq)
	e.Uint(uint64(len(m.Claims)))
	for _, c := range m.Claims {
		e.Bytes(c.Encode())
	}
	return e.Out()
}

func (m *taken) decode(b []byte) error {
	d := wire.Decode(b, maxMessage)
	d.Byte()
	d.Fill(m.Session[:])
	m.Seq = d.Uint()
	m.Claims = make([]session.Claim, d.Count(4, 64))
	for i := range m.Claims {
		if err := m.Claims[i].Decode(d.Bytes(maxMessage)); err != nil {
			d.Fail("claim: %v", err)
		}
	}
	return d.End()
}

// fault is why an exit refuses. Ref is that of an opening, Session that of the rest.
type fault struct {
	Ref     uint64
	Session top.SessionID
	Kind    string
	Message string
}

func (m fault) encode() []byte {
	var e wire.Encoder
	e.Byte(mFault)
	e.Uint(m.Ref)
	e.Raw(m.Session[:])
	e.String(m.Kind)
	e.String(m.Message)
	return e.Out()
}

func (m *fault) decode(b []byte) error {
	d := wire.Decode(b, maxMessage)
	d.Byte()
	m.Ref = d.Uint()
	d.Fill(m.Session[:])
	m.Kind, m.Message = d.String(32), d.String(512)
	return d.End()
}

func faultOf(ref uint64, id top.SessionID, err error) fault {
	text := err.Error()
	return fault{Ref: ref, Session: id, Kind: string(top.KindOf(err)), Message: text[:min(len(text), 400)]}
}

// exitSaid is what an exit said, as the error that it was.
type exitSaid struct{ error }

func (r *exitSaid) Unwrap() error { return r.error }

// err is the fault as the error that it was.
func (m fault) err() error {
	return &exitSaid{top.Errorf(top.KindOf(top.Kind(m.Kind).Err()), "the exit: %s", m.Message)}
}
