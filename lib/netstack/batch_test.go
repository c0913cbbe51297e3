package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"top/lib/top"
)

// merged is what a merger delivers of packets.
func merged(t testing.TB, in [][]byte) (out [][]byte) {
	m := &merger{open: make([]group, openGroups), deliver: func(pkt *stack.PacketBuffer, proto protocolNumber) {
		v := pkt.ToView()
		b := v.ToSlice()
		v.Release()
		pkt.DecRef()
		if want := map[byte]protocolNumber{4: header.IPv4ProtocolNumber, 6: header.IPv6ProtocolNumber}[b[0]>>4]; proto != want {
			t.Errorf("protocol %d of %x", proto, b)
		}
		out = append(out, b)
	}}
	for _, b := range in {
		p, ok := parse(b)
		if !ok {
			t.Fatalf("malformed: %x", b)
		}
		m.add(&p)
	}
	m.flush()
	return out
}

// story is what packets say, by flow: their data joined where one follows the other
// and nothing else changes, a PSH ends a piece. It is the slow model of a merger.
func story(t testing.TB, packets [][]byte) map[string][]string {
	type piece struct {
		next uint32
		head string
		data []byte
		push bool
	}
	open, said := map[string]*piece{}, map[string][]string{}
	end := func(flow string) {
		if p := open[flow]; p != nil {
			said[flow] = append(said[flow], fmt.Sprintf("%s %x %v", p.head, p.data, p.push))
			delete(open, flow)
		}
	}
	for _, b := range packets {
		at, proto := 20, b[9]
		if b[0]>>4 == 6 {
			at, proto = 40, b[6]
		}
		total := int(binary.BigEndian.Uint16(b[2:]))
		if b[0]>>4 == 6 {
			total = 40 + int(binary.BigEndian.Uint16(b[4:]))
		}
		if total != len(b) {
			t.Fatalf("length %d of %d bytes", total, len(b))
		}
		if proto != protoTCP {
			said["other"] = append(said["other"], fmt.Sprintf("%x", b))
			continue
		}
		tcp := header.TCP(b[at:])
		data := b[at+int(tcp.DataOffset()):]
		flow := fmt.Sprintf("%x %x", b[at-8:at], tcp[:4])
		flags := tcp.Flags()
		head := fmt.Sprintf("ack %d flags %x options %x class %x", tcp.AckNumber(), uint8(flags&^header.TCPFlagPsh), tcp[20:tcp.DataOffset()], b[:2])
		if b[0]>>4 == 6 {
			head += fmt.Sprint(b[3], b[7])
		} else {
			head += fmt.Sprint(b[6], b[8])
		}
		p := open[flow]
		if p == nil || p.next != tcp.SequenceNumber() || p.head[:len(head)] != head || len(data) == 0 || flags&^header.TCPFlagPsh != header.TCPFlagAck {
			end(flow)
			p = &piece{head: fmt.Sprintf("%s seq %d", head, tcp.SequenceNumber())}
			open[flow] = p
		}
		p.data = append(p.data, data...)
		p.next = tcp.SequenceNumber() + uint32(len(data))
		if p.push = flags&header.TCPFlagPsh != 0; p.push || len(data) == 0 {
			end(flow)
		}
	}
	for flow := range open {
		end(flow)
	}
	return said
}

// traffic is packets of a few flows as a tunnel may bring them, most of them segments
// that follow one another.
func traffic(r *rand.Rand, n int) (all [][]byte) {
	type end struct {
		src, dst string
		port     uint16
		seq, ack uint32
		options  []byte
	}
	var ends []*end
	for i := range 12 {
		e := &end{"10.7.0.2", "192.0.2.1", uint16(1000 + i), r.Uint32(), r.Uint32(), nil}
		if i%3 == 0 {
			e.src, e.dst = "fd07::2", "2001:db8::1"
		}
		if i%2 == 0 {
			e.options = []byte{1, 1, 8, 10, 0, 0, 0, byte(i), 0, 0, 0, 1}
		}
		ends = append(ends, e)
	}
	for len(all) < n {
		e := ends[r.IntN(len(ends))]
		for range 1 + r.IntN(20) {
			size, flags := 1400, uint8(header.TCPFlagAck)
			switch r.IntN(25) {
			case 0:
				size = 0
			case 1:
				size = r.IntN(1400)
			case 2:
				flags |= uint8(header.TCPFlagPsh)
			case 3:
				flags |= uint8(header.TCPFlagFin)
			case 4:
				flags |= uint8(header.TCPFlagUrg)
			case 5:
				e.seq += uint32(r.IntN(3)) * 700
			case 6:
				e.ack += 1400
			case 7:
				all = append(all, mk(protoUDP, "10.7.0.2", "192.0.2.1", udpDatagram(1, 2, []byte("x"))))
			}
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(e.seq + uint32(i))
			}
			s := tcpSegment(e.port, 80, e.seq, e.ack, flags, nil)
			s = append(append(s, e.options...), data...)
			s[12] = byte(20+len(e.options)) / 4 << 4
			all = append(all, mk(protoTCP, e.src, e.dst, s))
			e.seq += uint32(size)
		}
	}
	return all
}

func TestN6_JoinedSegmentsSayTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	joined := 0
	for range 200 {
		in := traffic(r, 128)
		out := merged(t, in)
		want, got := story(t, in), story(t, out)
		for flow := range want {
			if fmt.Sprint(want[flow]) != fmt.Sprint(got[flow]) {
				t.Fatalf("%s:\n%.2000s\nwant\n%.2000s", flow, got[flow], want[flow])
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d flows, want %d", len(got), len(want))
		}
		joined += len(in) - len(out)
	}
	if joined < 100*128 {
		t.Errorf("%d of %d packets were joined: too few to have looked at", joined, 200*128)
	}
}

// supersegment is one that TCP hands over.
func supersegment(v6 bool, flags uint8, data []byte, mss int) *stack.PacketBuffer {
	src, dst := "192.0.2.1", "10.7.0.2"
	typ := stack.GSOTCPv4
	if v6 {
		src, dst, typ = "2001:db8::1", "fd07::2", stack.GSOTCPv6
	}
	b := mk(protoTCP, src, dst, tcpSegment(80, 1000, 1<<32-5000, 9, flags, nil))
	at := len(b) - 20
	// The data comes in views of any size.
	var views buffer.Buffer
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)/3)
		views.Append(buffer.NewViewWithData(rest[:n]))
		rest = rest[n:]
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: len(b), Payload: views})
	copy(pkt.TransportHeader().Push(20), b[at:])
	ip := pkt.NetworkHeader().Push(at)
	copy(ip, b[:at])
	if v6 {
		header.IPv6(ip).SetPayloadLength(uint16(20 + len(data)))
	} else {
		header.IPv4(ip).SetTotalLength(uint16(40 + len(data)))
		header.IPv4(ip).SetChecksum(0)
		header.IPv4(ip).SetChecksum(^header.IPv4(ip).CalculateChecksum())
	}
	pkt.GSOOptions = stack.GSO{Type: typ, NeedsCsum: true, MSS: uint16(mss), MaxSize: superSize}
	return pkt
}

func TestN6_ASegmentIsCutIntoPacketsThatSayTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const all = uint8(header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin | header.TCPFlagCwr)
	for _, size := range []int{0, 1, 999, 1000, 1001, 1999, 2000, 2001, 44_123, 65_000} {
		for _, v6 := range []bool{false, true} {
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			var c cutter
			c.begin(supersegment(v6, all, data, 1000))
			var got []byte
			for n := 0; c.pkt != nil; n++ {
				b := make([]byte, 1420)
				length, ok := c.next(b, 1420)
				p, sound := parse(b[:length])
				if !ok || !sound {
					t.Fatalf("%d bytes, packet %d: %v, malformed %v: %x", size, n, ok, !sound, b[:length])
				}
				tcp := header.TCP(p.b[p.at:])
				want := header.TCPFlags(all)
				if n > 0 {
					want &^= header.TCPFlagCwr
				}
				if c.pkt != nil {
					want &^= header.TCPFlagFin | header.TCPFlagPsh
				}
				if tcp.Flags() != want || tcp.SequenceNumber() != uint32(1<<32-5000+len(got)) || len(tcp)-20 > 1000 || len(tcp) == 20 && size > 0 {
					t.Fatalf("%d bytes, packet %d: flags %v, want %v, sequence number %d, %d bytes", size, n, tcp.Flags(), want, tcp.SequenceNumber(), len(tcp))
				}
				got = append(got, tcp[20:]...)
			}
			if !bytes.Equal(got, data) {
				t.Fatalf("%d bytes became %d others", size, len(got))
			}
		}
	}
	// A buffer that is too small gets nothing, and the next segment follows.
	var c cutter
	c.begin(supersegment(false, all, make([]byte, 3000), 1000))
	if _, ok := c.next(make([]byte, 900), 1420); ok || c.pkt != nil {
		t.Error("a packet larger than its buffer")
	}
}

// Whatever comes, Write takes it, and nothing that it makes of it is larger or other
// than a packet of the tunnel.
func FuzzWrite(f *testing.F) {
	syn := tcpSegment(1, 80, 1, 0, uint8(header.TCPFlagSyn), nil)
	for _, b := range [][]byte{
		mk(protoTCP, client, host, syn), mk(protoTCP, "fd07::2", "2001:db8::1", syn), mk(protoUDP, client, host, udpDatagram(1, 53, []byte("?"))),
		mk(protoICMP, client, host, ask(8, "x")), mk(protoICMPv6, "fd07::2", "2001:db8::1", ask(128, "x")), mk(protoICMP, client, exitAddr.String(), ask(8, "x")),
		mk(protoICMP, client, host, append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, mk(protoTCP, host, client, syn)[:28]...)),
		mk(protoHop, "fd07::2", "2001:db8::1", []byte{6, 0, 1, 4, 0, 0, 0, 0}), mk(protoFrag, "fd07::2", "2001:db8::1", []byte{17, 0, 0, 1, 0, 0, 0, 9, 1, 2}),
	} {
		f.Add(b, false)
		f.Add(b, true)
	}
	deny := func(context.Context, Flow) (net.Conn, error) { return nil, top.ErrDenied }
	s, err := New(Config{Addrs: []netip.Addr{exitAddr, exit6}, Forward: &Forward{TCP: deny, UDP: deny, MaxPerSource: 4}})
	if err != nil {
		f.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		bufs, sizes := [][]byte{make([]byte, 2048)}, make([]int, 1)
		for {
			if _, err := s.Read(bufs, sizes, 0); err != nil {
				return
			}
			if sizes[0] > s.MTU() {
				panic(fmt.Sprintf("N1: a packet of %d bytes", sizes[0]))
			}
		}
	}()
	f.Cleanup(func() { s.Close(); <-done })
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			mendSums(b)
		}
		was := bytes.Clone(b)
		if n, err := s.Write([][]byte{b, b}, 0); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		if !bytes.Equal(was, b) {
			t.Fatal("Write changed its buffer")
		}
		if p, ok := parse(b); ok {
			out := merged(t, [][]byte{b})
			if len(out) != 1 || !bytes.Equal(out[0], p.b) {
				t.Fatalf("one packet became %x", out)
			}
		}
	})
}

// mendSums puts lengths and sums in order, so that what is random gets further.
func mendSums(b []byte) {
	if len(b) < 40 {
		return
	}
	at, proto := 20, b[9]
	if b[0]&1 == 0 {
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
	} else {
		b[0] = 0x60
		at, proto = 40, b[6]
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	}
	p := packet{b: b, v6: at == 40, proto: proto, at: at}
	off := map[uint8]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMPv6: 2}[proto]
	if t := b[at:]; off > 0 && len(t) > off+1 {
		t[off], t[off+1] = 0, 0
		sum := uint16(0)
		if proto != protoICMP {
			sum = p.pseudo(len(t))
		}
		binary.BigEndian.PutUint16(t[off:], ^checksum.Checksum(t, sum))
	}
}
