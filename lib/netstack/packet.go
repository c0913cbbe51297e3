package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Numbers of IP protocols and IPv6 extension headers (IANA, "Protocol Numbers").
const (
	protoHop     = 0
	protoICMP    = 1
	protoTCP     = 6
	protoUDP     = 17
	protoRouting = 43
	protoFrag    = 44
	protoICMPv6  = 58
	protoOptions = 60
)

// A packet is one of the tunnel's, looked at no further than Write needs.
type packet struct {
	b        []byte // without what follows its length
	v6       bool
	fragment bool  // the transport is not looked at
	proto    uint8 // of the transport
	at       int   // where the transport begins
}

// parse takes an IPv4 or IPv6 packet apart, and says whether it is well formed as far
// as it was read: lengths, the header checksum of IPv4, and the checksum of a TCP or
// UDP that is not a fragment. Sums of fragments are left to the tunnel's own
// authentication.
func parse(b []byte) (p packet, ok bool) {
	if len(b) < 20 {
		return p, false
	}
	switch b[0] >> 4 {
	case 4:
		p, ok = parse4(b)
	case 6:
		p, ok = parse6(b)
	}
	if !ok || p.fragment {
		return p, ok
	}
	t := p.b[p.at:]
	switch p.proto {
	case protoTCP:
		if len(t) < 20 || int(t[12]>>4)*4 < 20 || int(t[12]>>4)*4 > len(t) {
			return p, false
		}
		return p, checksum.Checksum(t, p.pseudo(len(t))) == 0xffff
	case protoUDP:
		if len(t) < 8 {
			return p, false
		}
		length := int(binary.BigEndian.Uint16(t[4:]))
		if length < 8 || length > len(t) {
			return p, false
		}
		if t[6] == 0 && t[7] == 0 {
			return p, !p.v6 // RFC 8200, section 8.1: not over IPv6
		}
		return p, checksum.Checksum(t[:length], p.pseudo(length)) == 0xffff
	}
	return p, true
}

// parse4 reads the header of RFC 791.
func parse4(b []byte) (p packet, ok bool) {
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || total < header || total > len(b) || checksum.Checksum(b[:header], 0) != 0xffff {
		return p, false
	}
	const more, offset = 0x2000, 0x1fff
	fragment := binary.BigEndian.Uint16(b[6:])&(more|offset) != 0
	return packet{b: b[:total], fragment: fragment, proto: b[9], at: header}, true
}

// parse6 reads the header of RFC 8200, and those that may follow it.
func parse6(b []byte) (p packet, ok bool) {
	if len(b) < 40 {
		return p, false
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return p, false
	}
	p = packet{b: b[:total], v6: true, proto: b[6], at: 40}
	for {
		switch p.proto {
		case protoHop, protoRouting, protoOptions:
			if p.at+8 > total {
				return p, false
			}
			next, length := b[p.at], 8+8*int(b[p.at+1])
			if p.at += length; p.at > total {
				return p, false
			}
			p.proto = next
		case protoFrag:
			p.fragment = true
			return p, p.at+8 <= total
		default:
			return p, true
		}
	}
}

func (p *packet) src() netip.Addr {
	if p.v6 {
		return netip.AddrFrom16([16]byte(p.b[8:24]))
	}
	return netip.AddrFrom4([4]byte(p.b[12:16]))
}

func (p *packet) dst() netip.Addr {
	if p.v6 {
		return netip.AddrFrom16([16]byte(p.b[24:40]))
	}
	return netip.AddrFrom4([4]byte(p.b[16:20]))
}

// addrs are both addresses as they stand in the packet.
func (p *packet) addrs() []byte {
	if p.v6 {
		return p.b[8:40]
	}
	return p.b[12:20]
}

// pseudo is the sum of the pseudo header.
func (p *packet) pseudo(length int) uint16 {
	return pseudoRest(checksum.Checksum(p.addrs(), 0), p.proto, length)
}
