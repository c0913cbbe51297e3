package wg

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"top/lib/top"
)

// A UDP is a datagram within a tunnel (RFC 768), over IPv4 (RFC 791) or IPv6 (RFC
// 8200): how two ends of a tunnel speak with each other, and how a tunnel goes
// through another.
type UDP struct {
	From, To netip.AddrPort
	Body     []byte
}

const (
	protoUDP = 17
	ip4Len   = 20
	ip6Len   = 40
	udpLen   = 8
	hops     = 64

	dontFragment = 0x40
)

// Packet is the datagram as an IP packet, with its checksums, that nobody may cut into
// fragments (RFC 6864: it has no identification). From and To are of one family, and
// the body is at most 65,507 bytes.
func (u UDP) Packet() []byte {
	n := udpLen + len(u.Body)
	var p, addrs []byte
	if u.To.Addr().Is4() {
		p = make([]byte, ip4Len+n)
		p[0], p[6], p[8], p[9] = 0x45, dontFragment, hops, protoUDP
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		copy(p[12:], u.From.Addr().AsSlice())
		copy(p[16:], u.To.Addr().AsSlice())
		binary.BigEndian.PutUint16(p[10:], ^fold(sum(p[:ip4Len], 0)))
		addrs = p[12:20]
	} else {
		p = make([]byte, ip6Len+n)
		p[0], p[6], p[7] = 0x60, protoUDP, hops
		binary.BigEndian.PutUint16(p[4:], uint16(n))
		copy(p[8:], u.From.Addr().AsSlice())
		copy(p[24:], u.To.Addr().AsSlice())
		addrs = p[8:40]
	}
	d := p[len(p)-n:]
	binary.BigEndian.PutUint16(d, u.From.Port())
	binary.BigEndian.PutUint16(d[2:], u.To.Port())
	binary.BigEndian.PutUint16(d[4:], uint16(n))
	copy(d[udpLen:], u.Body)
	c := ^fold(sum(d, sum(addrs, uint64(protoUDP)+uint64(n))))
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(d[6:], c)
	return p
}

// ParseUDP reads a packet. The body is the packet's own bytes. A fragment, another
// protocol and a length that is not the packet's are errors. Checksums are not looked
// at: what came through a tunnel is authentic.
func ParseUDP(p []byte) (u UDP, err error) {
	bad := func(why string) (UDP, error) { return UDP{}, fmt.Errorf("packet: %s: %w", why, top.ErrInvalid) }
	var from, to netip.Addr
	var d []byte
	switch {
	case len(p) >= ip4Len+udpLen && p[0] == 0x45:
		if p[9] != protoUDP || binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
			return bad("no whole UDP datagram")
		}
		if int(binary.BigEndian.Uint16(p[2:])) != len(p) {
			return bad("a length that is not its own")
		}
		from, to, d = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:])), p[ip4Len:]
	case len(p) >= ip6Len+udpLen && p[0]>>4 == 6:
		if p[6] != protoUDP {
			return bad("no UDP datagram")
		}
		if ip6Len+int(binary.BigEndian.Uint16(p[4:])) != len(p) {
			return bad("a length that is not its own")
		}
		from, to, d = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:])), p[ip6Len:]
	default:
		return bad("too short, or with options")
	}
	if int(binary.BigEndian.Uint16(d[4:])) != len(d) {
		return bad("a datagram whose length is not its own")
	}
	u.From, u.To = netip.AddrPortFrom(from, binary.BigEndian.Uint16(d)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(d[2:]))
	u.Body = d[udpLen:]
	return u, nil
}

// sum adds 16-bit words (RFC 1071).
func sum(b []byte, s uint64) uint64 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint64(b[0])<<8 | uint64(b[1])
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func fold(s uint64) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
