// Package flow tells, of the packets of a tunnel, those that its consumer asked for
// from those that it did not: what is paid from what is not.
//
//	F1  a packet counts when the consumer sent it, or when it answers a flow that
//	    the consumer opened
//	F2  what came before counts once: payload of TCP by its sequence numbers and
//	    within the window that the consumer offered; what has no payload, and ICMP,
//	    at most one for each packet that was sent, and a few
//	F3  a table holds a bounded number of flows; who floods it makes it forget the
//	    idle ones
//
// It reads no clock: the caller gives seconds. It judges headers alone: what a flow
// of UDP that was opened brings is its consumer's to want. A fragment that overtakes
// the first of its packet is nobody's.
package flow

import "sync"

// A Verdict is what a packet from the tunnel is.
type Verdict int

const (
	// Fresh is asked for, and new.
	Fresh Verdict = iota
	// Duplicate is asked for, and some of it came before or goes beyond what the
	// consumer has room for: it goes on and does not count.
	Duplicate
	// Unsolicited is what nobody asked for: it neither goes on nor counts.
	Unsolicited
	// Malformed is no IP packet.
	Malformed
)

// Limits (F3), and how long a flow without a packet of ours still has answers.
const (
	maxFlows  = 1 << 14 // twice as many at most
	turnEvery = 7440    // seconds: RFC 5382 REQ-5 asks for 2 hours and 4 minutes
	udpLife   = 180     // RFC 4787 REQ-5 asks for more than 120
	maxParts  = 256     // packets whose later fragments may come
	spare     = 16      // answers without payload, beyond one for each packet
)

// key names a flow as its consumer sees it.
type key struct {
	local, remote [16]byte
	ports         uint32 // local, remote; of an echo its identifier
	proto         uint8
}

type entry struct {
	last    int64  // seconds, of the newest packet of ours
	sent    uint64 // packets of ours
	answers uint64 // those without payload, and of ICMP, that counted
	offered bool   // edge is known
	scale   uint8  // of the window (RFC 7323, 2)
	edge    uint32 // where the window ends that the consumer offered; before that its size
	bytes   reassembly
}

// A Table is what one consumer asked for. The zero value asked for nothing. It is
// safe for concurrent use.
type Table struct {
	mu       sync.Mutex
	new, old map[key]*entry
	turned   int64
	parts    map[partKey]*part
	order    []partKey // of parts, a ring
	turn     int

	outKey, inKey     key // of the packet before: most follow one like them
	outEntry, inEntry *entry
}

// Out notes packets of the consumer; pkts[i][offset:] is one, of sizes[i] bytes
// where sizes is not nil. The result is the bytes that count (F1).
func (t *Table) Out(pkts [][]byte, sizes []int, offset int, now int64) (bytes uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, p := range pkts {
		if p = p[offset:]; sizes != nil {
			p = p[:sizes[i]]
		}
		h, ok := parse(p, true)
		if !ok {
			continue
		}
		bytes += uint64(len(p))
		if h.at > 0 || h.isICMP() && !h.echo {
			continue // it opens nothing: a later fragment, an error about another's packet
		}
		e := t.outEntry
		if e == nil || h.key != t.outKey {
			e = t.open(h.key, now)
			t.outKey, t.outEntry = h.key, e
		}
		e.last = now
		e.sent++
		if h.key.proto == tcp {
			e.offer(h)
		}
	}
	return bytes
}

// offer notes which bytes the consumer has room for (RFC 9293, 3.3.1).
func (e *entry) offer(h header) {
	if h.flags&flagSYN != 0 { // the same ports may have had another connection
		*e = entry{last: e.last, sent: 1, scale: h.scale(), edge: uint32(h.window)}
		return
	}
	if h.flags&flagACK == 0 {
		return
	}
	e.bytes.start(h.ack)
	if edge := h.ack + uint32(h.window)<<e.scale; !e.offered || less(e.edge, edge) {
		e.offered, e.edge = true, edge
	}
}

// In judges packets for the consumer, pkts[i][offset:] each.
func (t *Table) In(pkts [][]byte, offset int, now int64, each func(i int, v Verdict)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, p := range pkts {
		each(i, t.judge(p[offset:], now))
	}
}

func (t *Table) judge(p []byte, now int64) Verdict {
	h, ok := parse(p, false)
	switch {
	case !ok:
		return Malformed
	case h.at > 0:
		return t.later(h, now)
	case h.isICMP() && !h.echo:
		return t.about(h)
	}
	e := t.inEntry
	if e == nil || h.key != t.inKey {
		if e = t.find(h.key); e == nil {
			return Unsolicited
		}
		t.inKey, t.inEntry = h.key, e
	}
	if h.key.proto != tcp && now-e.last > udpLife {
		return Unsolicited
	}
	if h.more {
		t.expect(h, e, now)
	}
	switch {
	case h.key.proto == tcp:
		return e.segment(h)
	case h.isICMP():
		return e.answer()
	}
	return Fresh
}

// segment judges a segment of a flow (F2).
func (e *entry) segment(h header) Verdict {
	if h.flags&flagSYN != 0 {
		h.seq++
		e.bytes.start(h.seq)
		if !e.offered { // what our SYN offered, from where theirs begins
			e.offered, e.edge = true, h.seq+e.edge
		}
	}
	if h.payload == 0 {
		return e.answer()
	}
	return e.payload(h.seq, h.payload)
}

// payload judges bytes of a stream.
func (e *entry) payload(seq, n uint32) Verdict {
	if !e.offered || less(e.edge, seq+n) || !e.bytes.add(seq, n) {
		return Duplicate
	}
	return Fresh
}

// answer judges what has nothing to tell it from the one before.
func (e *entry) answer() Verdict {
	if e.answers >= e.sent+spare {
		return Duplicate
	}
	e.answers++
	return Fresh
}

// about judges an ICMP error: it carries the head of a packet of ours (RFC 792,
// RFC 4443), to its ports at least.
func (t *Table) about(h header) Verdict {
	if len(h.transport) < 8 {
		return Unsolicited
	}
	kind := h.transport[0]
	if h.key.proto == icmp && kind != 3 && kind != 11 && kind != 12 || h.key.proto == icmp6 && (kind < 1 || kind > 4) {
		return Unsolicited
	}
	var ours header
	if !ours.network(h.transport[8:], true) || ours.at > 0 || !ours.name(true) || ours.isICMP() && !ours.echo || ours.key.local != h.key.local {
		return Unsolicited
	}
	e := t.find(ours.key)
	if e == nil {
		return Unsolicited
	}
	return e.answer()
}

// find is a flow, or nil.
func (t *Table) find(k key) *entry {
	if e := t.new[k]; e != nil {
		return e
	}
	return t.old[k]
}

// open finds a flow, or begins one.
func (t *Table) open(k key, now int64) *entry {
	e := t.new[k]
	if e != nil {
		return e
	}
	if e = t.old[k]; e == nil {
		e = &entry{last: now, scale: maxScale}
	}
	if t.new == nil || len(t.new) >= maxFlows || now-t.turned >= turnEvery {
		t.old, t.new, t.turned = t.new, map[key]*entry{}, now
		t.outEntry, t.inEntry = nil, nil
	}
	t.new[k] = e
	return e
}

// Flows is how many the table holds.
func (t *Table) Flows() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.old {
		if t.new[k] == nil {
			n++
		}
	}
	return n + len(t.new)
}
