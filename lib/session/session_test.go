package session_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

// The fixed parts of every test.
const (
	deadline = 10 * time.Minute // D
	price    = top.Amount(1000)
)

func start() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func key(n byte) keys.Private { return keys.FromSeed([32]byte{n}) }

func sid(n byte) top.SessionID { return top.SessionID{n} }

func vpn() session.Offer {
	return session.Offer{Service: "vpn", Unit: "64KiB", Price: price, Window: 1 << 20}
}

// seeds draws what is different each time and the same in each run.
func seeds(name string) func() [32]byte {
	n := uint64(0)
	return func() [32]byte {
		n++
		return sha256.Sum256(binary.BigEndian.AppendUint64([]byte(name), n))
	}
}

// ends is a payer and a meter with a wire between them that a test may cut.
type ends struct {
	t        testing.TB
	now      time.Time
	payerCfg session.PayerConfig
	meterCfg session.MeterConfig
	payer    *session.Payer
	meter    *session.Meter
	acked    map[top.SessionID]uint64 // units
}

func newEnds(t testing.TB, cap top.Amount) *ends {
	e := &ends{t: t, now: start(), acked: map[top.SessionID]uint64{}}
	chain, channel := top.ChainID{1}, top.ID{2}
	payer, node := top.Address(key(1).Public()), top.NodeID(key(2).Public())
	expiry := start().Add(24 * time.Hour)
	e.payerCfg = session.PayerConfig{Chain: chain, Channel: channel, Payer: payer, Node: node, Cap: cap, Expiry: expiry, Draw: seeds("payer")}
	e.meterCfg = session.MeterConfig{Chain: chain, Channel: channel, Payer: payer, Node: node, Cap: cap, Expiry: expiry, Deadline: deadline}
	e.payer, e.meter = session.NewPayer(e.payerCfg), session.NewMeter(e.meterCfg)
	e.meter.Head(e.now)
	return e
}

func (e *ends) ok(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// refused wants an error of a kind.
func refused(t testing.TB, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want: %v", err, kind)
	}
}

// ticket begins a session at the payer and signs its ticket.
func (e *ends) ticket(id top.SessionID, o session.Offer) session.Ticket {
	e.t.Helper()
	t, err := e.payer.Begin(e.now, id, o)
	e.ok(err)
	e.ok(t.SignPayer(key(1).Signer()))
	return t
}

// open begins a session at both ends, without a voucher.
func (e *ends) open(id top.SessionID, o session.Offer) {
	e.t.Helper()
	t := e.ticket(id, o)
	e.ok(e.meter.Open(e.now, t, o))
	e.ok(t.SignNode(key(2).Signer()))
	e.ok(e.payer.Check(t))
}

// voucher is the next one, signed; it must be due.
func (e *ends) voucher() session.Renewal {
	e.t.Helper()
	r, due, err := e.payer.Renew(e.now)
	e.ok(err)
	if !due {
		e.t.Fatal("no voucher is due")
	}
	e.ok(r.Voucher.Sign(key(1).Signer()))
	e.ok(e.payer.Signed(r.Voucher))
	return r
}

// renew brings the next voucher over and its acknowledgement back.
func (e *ends) renew() session.Renewal {
	e.t.Helper()
	r := e.voucher()
	e.ok(e.meter.Renew(e.now, r))
	e.ok(e.payer.Acknowledged(r.Voucher.Seq))
	return r
}

// begin begins a session at both ends.
func (e *ends) begin(id top.SessionID, o session.Offer) {
	e.t.Helper()
	e.open(id, o)
	e.renew()
}

// unit serves one unit and passes on what is due.
func (e *ends) unit(id top.SessionID) {
	e.t.Helper()
	e.ok(e.meter.Serve(e.now, id, 1))
	e.acked[id]++
	if t, due := e.payer.Served(id, e.acked[id]); due {
		e.ok(e.meter.Tick(e.now, &t))
	}
}

// run serves n units with renewals.
func (e *ends) run(id top.SessionID, n int) {
	e.t.Helper()
	for range n {
		e.unit(id)
		r, due, err := e.payer.Renew(e.now)
		e.ok(err)
		if due {
			e.ok(r.Voucher.Sign(key(1).Signer()))
			e.ok(e.payer.Signed(r.Voucher))
			e.ok(e.meter.Renew(e.now, r))
			e.ok(e.payer.Acknowledged(r.Voucher.Seq))
		}
	}
}

// repeat brings every tick over, again if need be.
func (e *ends) repeat() {
	e.t.Helper()
	for _, t := range e.payer.Repeat() {
		e.ok(e.meter.Tick(e.now, &t))
	}
}

// owed is what the meter's claim comes to, by the chain's own rule.
func (e *ends) owed() top.Amount {
	e.t.Helper()
	c := e.meter.Claim()
	e.ok(c.Voucher.Verify(e.meterCfg.Payer))
	owed, err := c.Owed()
	e.ok(err)
	if owed != e.meter.Owed() {
		e.t.Fatalf("the claim comes to %d, the meter counts %d", owed, e.meter.Owed())
	}
	return owed
}

// A whole session of both ends: a lossy wire, a crash of the provider, and what
// the chain is shown.
func Example() {
	now, expiry := start(), start().Add(time.Hour)
	chain, channel := top.ChainID{1}, top.ID{2}
	client, node := key(1), key(2)
	payerID, nodeID := top.Address(client.Public()), top.NodeID(node.Public())
	cfg := session.MeterConfig{Chain: chain, Channel: channel, Payer: payerID, Node: nodeID, Cap: top.One, Expiry: expiry, Deadline: deadline}
	meter := session.NewMeter(cfg)
	payer := session.NewPayer(session.PayerConfig{Chain: chain, Channel: channel, Payer: payerID, Node: nodeID, Cap: top.One, Expiry: expiry, Draw: seeds("example")})
	offer := session.Offer{Service: "vpn", Unit: "64KiB", Price: price, Window: 64}

	begin := func(id top.SessionID) {
		t, err := payer.Begin(now, id, offer)
		err = errors.Join(err, t.SignPayer(client.Signer()), meter.Open(now, t, offer), t.SignNode(node.Signer()), payer.Check(t))
		fmt.Println("begin", id[0], "error:", err)
	}
	renew := func() { // a voucher crosses, and its acknowledgement
		if r, due, _ := payer.Renew(now); due {
			err := errors.Join(r.Voucher.Sign(client.Signer()), payer.Signed(r.Voucher), meter.Renew(now, r), payer.Acknowledged(r.Voucher.Seq))
			fmt.Println("voucher", r.Voucher.Seq, "settles", r.Voucher.Amount, "error:", err)
		}
	}
	begin(sid(1))
	for unit := uint64(1); unit <= 600; unit++ {
		renew()
		meter.Head(now)
		if meter.Serve(now, sid(1), 1) != nil { // out of credit: ticks were lost
			for _, t := range payer.Repeat() {
				meter.Tick(now, &t)
			}
			meter.Serve(now, sid(1), 1)
		}
		if t, due := payer.Served(sid(1), unit); due && unit%3 > 0 { // every third is lost
			meter.Tick(now, &t)
		}
	}
	saved, _ := meter.Save(now)
	meter = session.NewMeter(cfg) // a crash: what was saved, and what the payer shows
	for _, c := range append(saved, payer.Show()...) {
		meter.Recover(c)
	}
	meter.Head(now)
	for _, c := range meter.Show() {
		payer.Recover(c)
	}
	begin(sid(2))
	renew()
	meter.Serve(now, sid(2), 3)
	payer.Served(sid(2), 3)
	for _, t := range payer.Repeat() {
		meter.Tick(now, &t)
	}
	owed, err := meter.Claim().Owed()
	fmt.Println("the chain pays", owed, "error:", err)
	// Output:
	// begin 1 error: <nil>
	// voucher 1 settles 0 error: <nil>
	// voucher 2 settles 0.000516 error: <nil>
	// begin 2 error: <nil>
	// voucher 3 settles 0.0006 error: <nil>
	// the chain pays 0.000603 error: <nil>
}
