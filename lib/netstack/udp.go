package netstack

import (
	"errors"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// udpHandler takes datagrams that came in fragments, or to a port of the stack's own
// addresses where nobody listens: those are refused.
func (s *Stack) udpHandler(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	f := Flow{UDP, addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)}
	if s.isOwn(f.Dst.Addr()) {
		return false
	}
	s.datagram(f, pkt.Data().AsRange().ToSlice())
	return true
}

// datagram carries one to the host, or loses it: it never waits.
func (s *Stack) datagram(f Flow, payload []byte) {
	fl, made := s.get(f)
	if fl == nil {
		s.unreachable(f, portUnreachable)
		return
	}
	if made {
		go s.carry(fl)
	}
	select {
	case fl.up <- append([]byte(nil), payload...):
	default:
		s.link.lost.Add(1)
	}
}

// carry is a UDP flow, until it is idle.
func (s *Stack) carry(fl *flow) {
	defer s.done(fl)
	dial := s.flows.cfg.UDP
	if dial == nil {
		s.refuse(fl)
		return
	}
	host, err := dial(fl.ctx, fl.Flow)
	if err != nil {
		s.refuse(fl)
		return
	}
	stop := atEnd(fl.ctx, func() { host.Close() })
	defer stop()
	defer host.Close()
	down := make(chan struct{})
	go func() {
		defer close(down)
		s.answers(fl, host)
	}()
	for {
		select {
		case b := <-fl.up:
			if _, err := host.Write(b); errors.Is(err, syscall.ECONNREFUSED) {
				s.unreachable(fl.Flow, portUnreachable)
			}
		case <-fl.ctx.Done():
			host.Close()
			<-down
			return
		}
	}
}

func (s *Stack) refuse(fl *flow) {
	s.refused.Add(1)
	s.unreachable(fl.Flow, portUnreachable)
}

// answers carries what the host receives to the client. A datagram that fills the
// buffer may be cut, so it is lost, and the next one finds a larger buffer.
func (s *Stack) answers(fl *flow, host interface{ Read([]byte) (int, error) }) {
	defer fl.end()
	r, terr := s.stack.FindRoute(nic, tcpip.AddrFromSlice(fl.Dst.Addr().AsSlice()), tcpip.AddrFromSlice(fl.Src.Addr().AsSlice()), protocolOf(fl.Src.Addr()), false)
	if terr != nil {
		return
	}
	defer r.Release()
	b := make([]byte, smallBuffer)
	for {
		n, err := host.Read(b)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			s.unreachable(fl.Flow, portUnreachable)
			continue
		case err != nil:
			return
		case n == len(b):
			s.link.lost.Add(1)
			b = make([]byte, largeBuffer)
			continue
		}
		s.touch(fl)
		s.answer(r, fl.Flow, b[:n])
	}
}

// answer sends one datagram to the client, in fragments if it is larger than the MTU.
func (s *Stack) answer(r *stack.Route, f Flow, payload []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(r.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	h := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = udp.ProtocolNumber
	length := uint16(pkt.Size())
	h.Encode(&header.UDPFields{SrcPort: f.Dst.Port(), DstPort: f.Src.Port(), Length: length})
	sum := checksum.Combine(r.PseudoHeaderChecksum(udp.ProtocolNumber, length), checksum.Checksum(payload, 0))
	if sum = ^h.CalculateChecksum(sum); sum == 0 {
		sum = 0xffff // RFC 768: zero says that there is none
	}
	h.SetChecksum(sum)
	r.WritePacket(stack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: r.DefaultTTL()}, pkt)
}
