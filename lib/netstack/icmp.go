package netstack

import (
	"context"
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Types and codes of RFC 792 and RFC 4443.
const (
	echoRequest, echoReply     = 8, 0
	echoRequest6, echoReply6   = 128, 129
	unreachable4, unreachable6 = 3, 1
)

// why is the code of an unreachable: of ICMP, and of ICMPv6.
type why struct{ v4, v6 uint8 }

var (
	hostUnreachable = why{1, 3}
	portUnreachable = why{3, 4}
	prohibited      = why{13, 1} // administratively
)

// echo takes an echo request for somebody else, and says whether it was one.
func (s *Stack) echo(p *packet, t []byte) bool {
	want := byte(echoRequest)
	if p.v6 {
		want = echoRequest6
	}
	if len(t) < 8 || t[0] != want || t[1] != 0 || p.v6 != (p.proto == protoICMPv6) {
		return false
	}
	sum := uint16(0)
	if p.v6 {
		sum = p.pseudo(len(t))
	}
	if checksum.Checksum(t, sum) != 0xffff {
		s.malformed.Add(1)
		return true
	}
	f := Flow{Echo, netip.AddrPortFrom(p.src(), binary.BigEndian.Uint16(t[4:])), netip.AddrPortFrom(p.dst(), binary.BigEndian.Uint16(t[6:]))}
	if s.flows.cfg.Echo == nil {
		s.refused.Add(1)
		s.unreachable(f, prohibited)
		return true
	}
	if fl, made := s.get(f); made {
		payload := append([]byte(nil), t[8:]...)
		go s.ask(fl, payload)
	}
	return true
}

// ask is one echo: asked of the host, and answered when that was. What nobody answers
// is answered by silence.
func (s *Stack) ask(fl *flow, payload []byte) {
	defer s.done(fl)
	ctx, cancel := context.WithTimeout(fl.ctx, s.flows.cfg.DialTimeout)
	defer cancel()
	if err := s.flows.cfg.Echo(ctx, fl.Flow, payload); err != nil {
		if ctx.Err() == nil {
			s.refused.Add(1)
			s.unreachable(fl.Flow, reason(err))
		}
		return
	}
	kind := byte(echoReply)
	if fl.Dst.Addr().Is6() {
		kind = echoReply6
	}
	head := [8]byte{0: kind}
	binary.BigEndian.PutUint16(head[4:], fl.Src.Port())
	binary.BigEndian.PutUint16(head[6:], fl.Dst.Port())
	s.sendICMP(fl.Dst.Addr(), fl.Src.Addr(), head, payload)
}

// unreachable tells the client of a flow that it reaches nobody, as often as gVisor's
// own limit lets ICMP errors be sent. It speaks for the exit, a router on the way.
func (s *Stack) unreachable(f Flow, w why) {
	from, ok := s.ownLike(f.Src.Addr())
	if !ok || !s.stack.AllowICMPMessage() {
		return
	}
	kind, code := byte(unreachable4), w.v4
	if f.Src.Addr().Is6() {
		kind, code = unreachable6, w.v6
	}
	s.sendICMP(from, f.Src.Addr(), [8]byte{kind, code}, quote(f))
}

// quote is the beginning of the packet that could not be delivered: of what the
// client sent, its stack looks at addresses, protocol and the first eight bytes.
func quote(f Flow) []byte {
	src, dst := f.Src.Addr().AsSlice(), f.Dst.Addr().AsSlice()
	proto := uint8(f.Proto)
	var b []byte
	if f.Src.Addr().Is4() {
		b = make([]byte, 20, 28)
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], 28)
		copy(b[12:], src)
		copy(b[16:], dst)
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b, 0))
	} else {
		if f.Proto == Echo {
			proto = protoICMPv6
		}
		b = make([]byte, 40, 48)
		b[0], b[5], b[6], b[7] = 0x60, 8, proto, 64
		copy(b[8:], src)
		copy(b[24:], dst)
	}
	if f.Proto != Echo {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, f.Src.Port()), f.Dst.Port())
		return append(b, 0, 8, 0, 0)
	}
	kind := byte(echoRequest)
	if f.Src.Addr().Is6() {
		kind = echoRequest6
	}
	b = append(b, kind, 0, 0, 0)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, f.Src.Port()), f.Dst.Port())
}

// sendICMP sends one message, and puts the checksum in its head.
func (s *Stack) sendICMP(from, to netip.Addr, head [8]byte, body []byte) {
	src, dst := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.AsSlice())
	r, terr := s.stack.FindRoute(nic, src, dst, protocolOf(to), false)
	if terr != nil {
		return
	}
	defer r.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.ICMPv6MinimumSize + int(r.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(body),
	})
	defer pkt.DecRef()
	h := pkt.TransportHeader().Push(header.ICMPv6MinimumSize)
	copy(h, head[:])
	proto, sum := header.ICMPv4ProtocolNumber, uint16(0)
	if to.Is6() {
		proto = header.ICMPv6ProtocolNumber
		sum = r.PseudoHeaderChecksum(proto, uint16(pkt.Size()))
	}
	pkt.TransportProtocolNumber = proto
	binary.BigEndian.PutUint16(h[2:], ^checksum.Combine(checksum.Checksum(h, sum), checksum.Checksum(body, 0)))
	r.WritePacket(stack.NetworkHeaderParams{Protocol: proto, TTL: r.DefaultTTL()}, pkt)
}
