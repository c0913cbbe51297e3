// Package flow tells, of the packets of a tunnel, those that its consumer asked for
// from those that it did not: what is paid from what is not.
//
//	F1  a packet counts when the consumer sent it, or when it answers a flow that
//	    the consumer opened
//	F2  what came before counts once: payload of TCP by its sequence numbers, bare
//	    acknowledgements at most one for each packet that was sent
//	F3  a table holds a bounded number of flows; who floods it makes it forget the
//	    idle ones
//
// It reads no clock: the caller gives seconds. It judges headers alone: what a flow
// that was opened brings is its consumer's to want.
package flow

import (
	"encoding/binary"
	"sync"
)

// A Verdict is what a packet from the tunnel is.
type Verdict int

const (
	// Fresh is asked for, and new.
	Fresh Verdict = iota
	// Duplicate is asked for, and came before: it goes on and does not count.
	Duplicate
	// Unsolicited is what nobody asked for: it neither goes on nor counts.
	Unsolicited
	// Malformed is no IP packet.
	Malformed
)

// Limits (F3), and how long a flow without a packet of ours still has answers.
const (
	maxFlows  = 1 << 16 // twice as many at most
	turnEvery = 3600    // seconds
	udpLife   = 180     // RFC 4787 REQ-5 asks for more than 120
	spareAcks = 16
)

const (
	icmp  = 1
	tcp   = 6
	udp   = 17
	icmp6 = 58
)

// key names a flow as its consumer sees it.
type key struct {
	local, remote [16]byte
	ports         uint32 // local, remote; of an echo its identifier; of a fragment its identification
	proto         uint8
	part          bool // a later fragment
}

type entry struct {
	last  int64  // seconds, of the newest packet of ours
	sent  uint64 // packets of ours
	acks  uint64 // bare ones that counted
	bytes reassembly
}

// A Table is what one consumer asked for. The zero value asked for nothing. It is
// safe for concurrent use.
type Table struct {
	mu       sync.Mutex
	new, old map[key]*entry
	turned   int64

	outKey, inKey     key // of the packet before: most follow one like them
	outEntry, inEntry *entry
}

// header is what a table looks at.
type header struct {
	key          key
	size         int // of the packet
	proto        uint8
	seq, payload uint32 // of TCP
	flags        byte
	transport    []byte
	first        bool // of fragments that are more than one
}

// parse reads the headers of a packet; out says that its source is the consumer.
func parse(p []byte, out bool) (h header, ok bool) {
	var local, remote []byte
	h.size = len(p)
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		n := int(p[0]&15) * 4
		if n < 20 || n > len(p) {
			return h, false
		}
		h.proto, h.transport = p[9], p[n:]
		local, remote = p[12:16], p[16:20]
		frag := binary.BigEndian.Uint16(p[6:])
		if frag&0x1fff != 0 {
			h.key.part, h.key.ports = true, uint32(binary.BigEndian.Uint16(p[4:]))
		}
		h.first = frag&0x3fff == 0x2000
	case len(p) >= 40 && p[0]>>4 == 6:
		h.proto, h.transport = p[6], p[40:]
		local, remote = p[8:24], p[24:40]
		if h.proto == 44 { // a fragment (RFC 8200, 4.5)
			if len(h.transport) < 8 {
				return h, false
			}
			frag := binary.BigEndian.Uint16(h.transport[2:])
			if frag&^7 != 0 {
				h.key.part, h.key.ports = true, binary.BigEndian.Uint32(h.transport[4:])
			}
			h.first = frag&^7 == 0 && frag&1 == 1
			h.proto, h.transport = h.transport[0], h.transport[8:]
		}
	default:
		return h, false
	}
	if !out {
		local, remote = remote, local
	}
	copy(h.key.local[:], local)
	copy(h.key.remote[:], remote)
	h.key.proto = h.proto
	if h.key.part {
		return h, true
	}
	return h, h.ports(out)
}

// ports reads what stands before the payload.
func (h *header) ports(out bool) bool {
	t := h.transport
	switch h.proto {
	case tcp:
		if len(t) < 20 || int(t[12]>>4)*4 > len(t) || t[12]>>4 < 5 {
			return false
		}
		h.seq, h.flags = binary.BigEndian.Uint32(t[4:]), t[13]
		h.payload = uint32(len(t) - int(t[12]>>4)*4)
	case udp:
		if len(t) < 8 {
			return false
		}
	case icmp, icmp6:
		if len(t) < 8 {
			return false
		}
		h.key.ports = uint32(binary.BigEndian.Uint16(t[4:]))
		return true
	default:
		return true
	}
	h.key.ports = binary.BigEndian.Uint32(t)
	if !out {
		h.key.ports = h.key.ports>>16 | h.key.ports<<16
	}
	return true
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
		bytes += uint64(h.size)
		e := t.outEntry
		if e == nil || h.key != t.outKey {
			e = t.open(h.key, now)
			t.outKey, t.outEntry = h.key, e
		}
		e.last = now
		e.sent++
		if h.proto == tcp && h.flags&flagSYN != 0 && !h.key.part {
			e.bytes, e.acks = reassembly{}, 0 // the same ports, another connection
		}
	}
	return bytes
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
	if !ok {
		return Malformed
	}
	e := t.inEntry
	if e == nil || h.key != t.inKey {
		if e = t.find(h.key); e == nil {
			return t.about(h)
		}
		t.inKey, t.inEntry = h.key, e
	}
	switch {
	case h.key.part:
		return Fresh
	case h.proto == tcp:
		return e.segment(h)
	case now-e.last > udpLife:
		return Unsolicited
	case h.first:
		t.part(h, p, now)
	}
	return Fresh
}

// segment judges a segment of a flow (F2).
func (e *entry) segment(h header) Verdict {
	switch {
	case h.payload > 0:
		if !e.bytes.add(h.seq, h.payload) {
			return Duplicate
		}
	case h.flags&flagSYN != 0:
		e.bytes.start(h.seq + 1)
	case h.flags&(flagFIN|flagRST) == 0:
		if e.acks >= e.sent+spareAcks {
			return Duplicate
		}
		e.acks++
	}
	return Fresh
}

const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
)

// about judges what has no flow of its own: an ICMP error about one of ours carries
// the head of a packet of ours (RFC 792, RFC 4443).
func (t *Table) about(h header) Verdict {
	if h.key.part || len(h.transport) < 8+20 {
		return Unsolicited
	}
	kind := h.transport[0]
	isError := h.proto == icmp && (kind == 3 || kind == 11 || kind == 12) || h.proto == icmp6 && kind >= 1 && kind <= 4
	if !isError {
		return Unsolicited
	}
	inner := append(make([]byte, 0, 128), h.transport[8:]...)
	for len(inner) < 80 {
		inner = append(inner, 0) // an error need not carry the whole of a header
	}
	if ours, ok := parse(patch(inner), true); !ok || t.find(ours.key) == nil {
		return Unsolicited
	}
	return Fresh
}

// patch makes the head of a TCP packet that was cut look whole: its ports are there.
func patch(p []byte) []byte {
	n := 40
	if p[0]>>4 == 4 {
		n = int(p[0]&15) * 4
	}
	if n+12 < len(p) {
		p[n+12] = 0x50
	}
	return p
}

// part lets the other fragments of a packet through that a flow of ours has.
func (t *Table) part(h header, p []byte, now int64) {
	k := h.key
	k.part = true
	if p[0]>>4 == 4 {
		k.ports = uint32(binary.BigEndian.Uint16(p[4:]))
	} else {
		k.ports = binary.BigEndian.Uint32(p[44:])
	}
	t.open(k, now)
}

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
		e = &entry{last: now}
	}
	if t.new == nil || len(t.new) >= maxFlows || now-t.turned >= turnEvery {
		t.old, t.new, t.turned = t.new, map[key]*entry{}, now
		t.outEntry, t.inEntry = nil, nil
	}
	t.new[k] = e
	return e
}

// Flows is how many the table holds.
func (t *Table) Flows() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.new) + len(t.old)
}
