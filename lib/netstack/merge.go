package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Write takes packets of the tunnel, each at bufs[i][offset:], and says how many it
// took: all. What is malformed is dropped and counted. The buffers are the caller's
// again when it returns. It may be called from several goroutines, as long as the
// packets of one flow come from one. It never waits for Read.
func (s *Stack) Write(bufs [][]byte, offset int) (int, error) {
	if s.ctx.Err() != nil {
		return 0, s.closed("write")
	}
	m := mergers.Get().(*merger)
	m.deliver = s.link.deliver
	for _, b := range bufs {
		p, ok := packet{}, false
		if offset <= len(b) {
			p, ok = parse(b[offset:])
		}
		if !ok || !s.sound(&p) {
			s.malformed.Add(1)
			continue
		}
		if s.cfg.Forward == nil || !s.direct(&p) {
			m.add(&p)
		}
	}
	m.flush()
	m.deliver = nil
	mergers.Put(m)
	return len(bufs), nil
}

// sound says whether both ends of a packet are hosts, and not the same: none of what
// gVisor would take for its own, and none that would answer to many (N5).
func (s *Stack) sound(p *packet) bool {
	src, dst := p.src(), p.dst()
	return single(src) && single(dst) && src != dst && !s.isOwn(src)
}

// direct takes what goes past gVisor, and says whether it did: UDP and echoes for
// others, whole.
func (s *Stack) direct(p *packet) bool {
	if p.fragment || p.proto != protoUDP && p.proto != protoICMP && p.proto != protoICMPv6 {
		return false
	}
	dst := p.dst()
	if s.isOwn(dst) {
		return false
	}
	t := p.b[p.at:]
	if p.proto == protoUDP {
		f := Flow{UDP, netip.AddrPortFrom(p.src(), binary.BigEndian.Uint16(t)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(t[2:]))}
		s.datagram(f, t[8:binary.BigEndian.Uint16(t[4:])])
		return true
	}
	return s.echo(p, t)
}

// A merger joins consecutive segments of TCP flows, so that the stack is asked once
// for many (generic receive offload).
type merger struct {
	deliver func(*stack.PacketBuffer, protocolNumber)
	open    []group
}

// A group is segments that follow one another.
type group struct {
	head     packet // the first
	headers  int    // bytes of IP and TCP in each
	next     uint32 // sequence number that would follow
	segment  int    // data of the first: no other has more
	rest     [][]byte
	data     int  // in rest
	push     bool // of the last
	occupied bool
}

const openGroups = 8

var mergers = sync.Pool{New: func() any { return &merger{open: make([]group, openGroups)} }}

// add delivers a packet, or keeps it for what may follow.
func (m *merger) add(p *packet) {
	if p.fragment || p.proto != protoTCP {
		m.one(p)
		return
	}
	t := header.TCP(p.b[p.at:])
	headers := p.at + int(t.DataOffset())
	data := len(p.b) - headers
	flags := t.Flags()
	// A segment that is joined has data, and says nothing but that.
	plain := data > 0 && flags&^header.TCPFlagPsh == header.TCPFlagAck && (p.v6 && p.at == 40 || !p.v6 && p.at == 20)
	var free *group
	for i := range m.open {
		g := &m.open[i]
		if !g.occupied {
			if free == nil {
				free = g
			}
			continue
		}
		if !g.sameFlow(p) {
			continue
		}
		if plain && g.follows(p, headers, data) {
			g.rest = append(g.rest, p.b[headers:])
			g.data += data
			g.next += uint32(data)
			g.push = flags&header.TCPFlagPsh != 0
			if g.push || data < g.segment {
				m.close(g)
			}
			return
		}
		m.close(g)
		free = g
		break
	}
	if !plain || flags&header.TCPFlagPsh != 0 {
		m.one(p)
		return
	}
	if free == nil {
		free = &m.open[0]
		m.close(free)
	}
	*free = group{head: *p, headers: headers, next: t.SequenceNumber() + uint32(data), segment: data, rest: free.rest[:0], occupied: true}
}

func (g *group) sameFlow(p *packet) bool {
	return g.head.v6 == p.v6 && bytes.Equal(g.head.addrs(), p.addrs()) && bytes.Equal(g.head.b[g.head.at:g.head.at+4], p.b[p.at:p.at+4])
}

// follows says whether p continues the group: the next bytes of the stream, and
// nothing else new but the window and PSH.
func (g *group) follows(p *packet, headers, data int) bool {
	a, b := header.TCP(g.head.b[g.head.at:]), header.TCP(p.b[p.at:])
	if headers != g.headers || data > g.segment || g.headers+g.segment+g.data+data > superSize || b.SequenceNumber() != g.next ||
		a.AckNumber() != b.AckNumber() || !bytes.Equal(a[20:a.DataOffset()], b[20:b.DataOffset()]) {
		return false
	}
	// Class, flow label and hop limit of IPv6; class, DF and TTL of IPv4.
	x, y := g.head.b, p.b
	if p.v6 {
		return bytes.Equal(x[:4], y[:4]) && x[7] == y[7]
	}
	return x[1] == y[1] && x[6] == y[6] && x[8] == y[8]
}

// close delivers a group as one segment.
func (m *merger) close(g *group) {
	g.occupied = false
	if len(g.rest) == 0 {
		m.one(&g.head)
		return
	}
	v := buffer.NewViewSize(len(g.head.b) + g.data)
	b := v.AsSlice()
	at := copy(b, g.head.b)
	for i, data := range g.rest {
		at += copy(b[at:], data)
		g.rest[i] = nil
	}
	if g.head.v6 {
		header.IPv6(b).SetPayloadLength(uint16(len(b) - 40))
	} else {
		header.IPv4(b).SetTotalLength(uint16(len(b)))
	}
	if g.push {
		t := header.TCP(b[g.head.at:])
		t.SetFlags(uint8(t.Flags() | header.TCPFlagPsh))
	}
	m.send(v, g.head.v6)
}

func (m *merger) one(p *packet) { m.send(buffer.NewViewWithData(p.b), p.v6) }

func (m *merger) send(v *buffer.View, v6 bool) {
	proto := ipv4.ProtocolNumber
	if v6 {
		proto = ipv6.ProtocolNumber
	}
	m.deliver(stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)}), proto)
}

// flush delivers what waits.
func (m *merger) flush() {
	for i := range m.open {
		if m.open[i].occupied {
			m.close(&m.open[i])
		}
		m.open[i].head = packet{}
	}
}
