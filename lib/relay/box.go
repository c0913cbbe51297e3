package relay

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/top"
)

// maxFresh is how many bytes of a mailbox stay in memory, for devices that are
// connected and slower than the senders.
const maxFresh = 8 << 20

// A box is what is held for one recipient: envelopes in the order in which they
// came, and how far each device has them.
type box struct {
	account top.Address
	mailbox envelope.Mailbox
	state   boxState
	has_    map[[32]byte]map[uint64]bool // beyond the cursor of the device
	fresh   map[uint64]*parcel           // in memory
	kept    int                          // their bytes
	hands   map[[32]byte]*hand
}

// boxState is what of a box is on disk beside its envelopes.
type boxState struct {
	First   uint64 // the oldest that may be there
	Next    uint64 // the number of the next
	Bytes   uint64
	Cursors map[string]uint64 // hex of a device: it has all up to here
}

// A parcel is an envelope that is held.
type parcel struct {
	seq     uint64
	head    envelope.Header
	mac     [16]byte
	sealed  []byte // nil when it is on disk alone
	size    int
	at      time.Time // when it was taken
	pending bool      // counted in the provider's pending
	stored  bool
	gone    bool
	wait    *waiting
}

func (m *parcel) isBlob() bool { return m.size >= blobSize }

func (m *parcel) blobName() string {
	return hex.EncodeToString(m.head.Recipient[:8]) + "-" + hex.EncodeToString(u64(m.seq))
}

func (m *parcel) key() []byte { return key('Q', m.head.Recipient[:], u64(m.seq)) }

// waiting is the parcel as its channel knows it.
func (m *parcel) waiting() *waiting {
	m.wait = &waiting{m.place(), m.head.Expiry, m.head.ID, m.stored}
	return m.wait
}

func (m *parcel) place() delivery.Place {
	return delivery.Place{Recipient: m.head.Recipient, From: m.head.From, To: m.head.To}
}

// encode is the parcel as it is kept: its size, and the envelope, whose sealed part
// is left out when it is a file of its own.
func (m *parcel) encode() (b []byte, blob bool) {
	e := envelope.Envelope{Header: m.head, MAC: m.mac, Sealed: m.sealed}
	if m.isBlob() {
		e.Sealed = nil
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(m.size)), e.Encode()...), m.isBlob()
}

func decodeParcel(k, v []byte) (*parcel, error) {
	var e envelope.Envelope
	if len(k) != 41 || len(v) < 4 {
		return nil, top.Errorf(top.Failed, "the database is damaged")
	}
	if err := e.Decode(append([]byte{}, v[4:]...)); err != nil {
		return nil, err
	}
	m := &parcel{seq: binary.BigEndian.Uint64(k[33:]), head: e.Header, mac: e.MAC, size: int(binary.BigEndian.Uint32(v)), stored: true}
	if !m.isBlob() {
		m.sealed = e.Sealed
	}
	return m, nil
}

func splitExpiry(k []byte) (at uint64, to top.Address, seq uint64) {
	copy(to[:], k[9:])
	return binary.BigEndian.Uint64(k[1:]), to, binary.BigEndian.Uint64(k[41:])
}

// box is a recipient's box, from memory or disk; nil when there is no mailbox
// record.
func (p *provider) box(to top.Address) (*box, error) {
	if b := p.boxes[to]; b != nil {
		return b, nil
	}
	raw, err := get(p.db.db, key('M', to[:]))
	if err != nil || raw == nil {
		return nil, err
	}
	b := &box{account: to, has_: map[[32]byte]map[uint64]bool{}, fresh: map[uint64]*parcel{}, hands: map[[32]byte]*hand{}}
	if err := b.mailbox.Decode(raw); err != nil {
		return nil, err
	}
	if _, err := load(p.db.db, key('B', to[:]), &b.state); err != nil {
		return nil, err
	}
	if b.state.Next == 0 {
		b.state.First, b.state.Next = 1, 1
	}
	if b.state.Cursors == nil {
		b.state.Cursors = map[string]uint64{}
	}
	p.boxes[to] = b
	return b, nil
}

func (b *box) save(w *pebble.Batch) error { return save(w, key('B', b.account[:]), b.state) }

// add gives an envelope its number.
func (b *box) add(e envelope.Envelope) *parcel {
	m := &parcel{seq: b.state.Next, head: e.Header, mac: e.MAC, sealed: e.Sealed, size: len(e.Sealed)}
	b.state.Next++
	b.state.Bytes += uint64(m.size)
	b.fresh[m.seq] = m
	b.kept += m.size
	return m
}

// settle lets go of a stored parcel's memory, unless a device is about to get it.
func (b *box) settle(m *parcel) {
	if m.gone || len(b.hands) == 0 || b.kept > maxFresh {
		b.release(m)
	}
}

// release takes a parcel out of memory.
func (b *box) release(m *parcel) {
	if b.fresh[m.seq] == m && (m.stored || m.gone) {
		delete(b.fresh, m.seq)
		b.kept -= m.size
	}
}

// parcel is an envelope by its number; nil when it is gone.
func (b *box) parcel(db *store, seq uint64) (*parcel, error) {
	if m := b.fresh[seq]; m != nil {
		if m.gone {
			return nil, nil
		}
		return m, nil
	}
	k := key('Q', b.account[:], u64(seq))
	v, err := get(db.db, k)
	if err != nil || v == nil {
		return nil, err
	}
	return decodeParcel(k, v)
}

// wake lets the devices look for more.
func (b *box) wake() {
	for _, h := range b.hands {
		h.wake()
	}
}

func (b *box) cursor(device [32]byte) uint64 {
	return max(b.state.Cursors[hex.EncodeToString(device[:])], b.state.First-1)
}

// has notes that a device has an envelope.
func (b *box) has(device [32]byte, seq uint64) {
	at := b.cursor(device)
	if seq <= at {
		return
	}
	if b.has_[device] == nil {
		b.has_[device] = map[uint64]bool{}
	}
	b.has_[device][seq] = true
	for b.has_[device][at+1] {
		at++
		delete(b.has_[device], at)
	}
	b.state.Cursors[hex.EncodeToString(device[:])] = at
}

// lacks says whether a device has yet to get an envelope.
func (b *box) lacks(device [32]byte, seq uint64) bool {
	return seq > b.cursor(device) && !b.has_[device][seq]
}

// drop is what every device of the mailbox has: it is over.
func (b *box) drop(db *store) (all []*parcel) {
	least := b.state.Next - 1
	for _, d := range b.mailbox.Devices {
		least = min(least, b.cursor(d.Cert.Key))
	}
	for ; b.state.First <= least; b.state.First++ {
		if m, err := b.parcel(db, b.state.First); err == nil && m != nil {
			b.state.Bytes -= uint64(m.size)
			m.gone = true
			b.release(m)
			all = append(all, m)
		}
	}
	return all
}

// expire ends an envelope for every device.
func (b *box) expire(m *parcel) {
	b.state.Bytes -= uint64(m.size)
	m.gone = true
	b.release(m)
	for _, d := range b.mailbox.Devices {
		b.has(d.Cert.Key, m.seq)
		if h := b.hands[d.Cert.Key]; h != nil {
			delete(h.out, m.seq)
		}
	}
}

// keep replaces the mailbox record of a box.
func (b *box) keep(m envelope.Mailbox) {
	b.mailbox = m
	for name := range b.state.Cursors {
		if !slices.ContainsFunc(m.Devices, func(d envelope.Device) bool { return hex.EncodeToString(d.Cert.Key[:]) == name }) {
			delete(b.state.Cursors, name)
		}
	}
}
