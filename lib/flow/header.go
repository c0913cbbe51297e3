package flow

import "encoding/binary"

const (
	icmp  = 1
	tcp   = 6
	udp   = 17
	part6 = 44 // the fragment header of IPv6
	icmp6 = 58
)

const (
	flagSYN = 2
	flagACK = 16
)

// maxScale is the largest shift of a window (RFC 7323, 2.3), and what is taken when
// nobody saw the connection begin.
const maxScale = 14

// header is what a table looks at.
type header struct {
	key       key
	transport []byte // what follows the header of IP
	end       int    // where the packet says that it ends

	at   uint32 // where in the whole packet transport belongs; 0 but in a later fragment
	more bool   // fragments follow
	id   uint32 // that they have in common

	echo          bool // of ICMP: a request from the consumer, or a reply to it
	seq, ack      uint32
	payload, head uint32 // of TCP; head is where payload begins
	window        uint16
	flags         byte
}

// parse reads the headers of a packet; out says that its source is the consumer.
func parse(p []byte, out bool) (h header, ok bool) {
	if !h.network(p, out) || h.end != len(p) {
		return h, false
	}
	if h.at > 0 {
		return h, true
	}
	return h, h.name(out) && (h.key.proto != tcp || h.segment())
}

// network reads the header of IPv4 (RFC 791) or IPv6 (RFC 8200).
func (h *header) network(p []byte, out bool) bool {
	var local, remote []byte
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		n := int(p[0]&15) * 4
		h.end = int(binary.BigEndian.Uint16(p[2:]))
		if n < 20 || n > len(p) || n > h.end {
			return false
		}
		h.key.proto, h.transport = p[9], p[n:]
		local, remote = p[12:16], p[16:20]
		frag := binary.BigEndian.Uint16(p[6:])
		h.id, h.at, h.more = uint32(binary.BigEndian.Uint16(p[4:])), uint32(frag&0x1fff)*8, frag&0x2000 != 0
	case len(p) >= 40 && p[0]>>4 == 6:
		h.end = 40 + int(binary.BigEndian.Uint16(p[4:]))
		h.key.proto, h.transport = p[6], p[40:]
		local, remote = p[8:24], p[24:40]
		if h.key.proto == part6 {
			if len(h.transport) < 8 {
				return false
			}
			frag := binary.BigEndian.Uint16(h.transport[2:])
			h.id, h.at, h.more = binary.BigEndian.Uint32(h.transport[4:]), uint32(frag&^7), frag&1 != 0
			h.key.proto, h.transport = h.transport[0], h.transport[8:]
		}
	default:
		return false
	}
	if !out {
		local, remote = remote, local
	}
	copy(h.key.local[:], local)
	copy(h.key.remote[:], remote)
	return true
}

// name reads what tells a flow from the others between two addresses: it stands in
// the first 8 bytes.
func (h *header) name(out bool) bool {
	t := h.transport
	switch h.key.proto {
	case tcp, udp:
		if len(t) < 8 {
			return false
		}
		h.key.ports = binary.BigEndian.Uint32(t)
		if !out {
			h.key.ports = h.key.ports>>16 | h.key.ports<<16
		}
	case icmp, icmp6:
		if len(t) < 8 {
			return false
		}
		kind := t[0]
		switch {
		case h.key.proto == icmp && out:
			h.echo = kind == 8
		case h.key.proto == icmp:
			h.echo = kind == 0
		case out:
			h.echo = kind == 128
		default:
			h.echo = kind == 129
		}
		if h.echo {
			h.key.ports = uint32(binary.BigEndian.Uint16(t[4:]))
		}
	}
	return true
}

// segment reads the header of TCP (RFC 9293, 3.1).
func (h *header) segment() bool {
	t := h.transport
	if len(t) < 20 {
		return false
	}
	if h.head = uint32(t[12]>>4) * 4; h.head < 20 || int(h.head) > len(t) {
		return false
	}
	h.seq, h.ack = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:])
	h.flags, h.window = t[13], binary.BigEndian.Uint16(t[14:])
	h.payload = uint32(len(t)) - h.head
	return true
}

// scale reads the option of a SYN (RFC 7323, 2.2).
func (h *header) scale() uint8 {
	for o := h.transport[20:h.head]; len(o) > 0; {
		switch {
		case o[0] == 0: // the end
			return 0
		case o[0] == 1: // nothing
			o = o[1:]
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return 0
		case o[0] == 3 && o[1] == 3:
			return min(o[2], maxScale)
		default:
			o = o[o[1]:]
		}
	}
	return 0
}

func (h *header) isICMP() bool { return h.key.proto == icmp || h.key.proto == icmp6 }
