package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Read fills bufs with packets for the tunnel, each at bufs[i][offset:], its length
// in sizes[i], and says how many. It waits for the first, and returns net.ErrClosed
// after Close. Each buffer must have room for offset and the MTU.
func (s *Stack) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	return s.link.read(bufs, sizes, offset)
}

// Wake makes a Read that waits, or the next, return without a packet and without an
// error.
func (s *Stack) Wake() { s.link.wake() }

// A cutter makes packets of the MTU out of one that the stack sent, straight into the
// buffers of whoever reads them, with their checksums.
type cutter struct {
	pkt    *stack.PacketBuffer // nil when there is none
	header []byte              // of IP and TCP, as of the whole
	ip     int                 // bytes of it that are IP's
	view   *buffer.View        // of the data: where the next byte is
	at     int                 // in view
	left   int                 // bytes of data
	size   int                 // data of a packet; 0: the packet is whole and has its checksum
	done   int                 // bytes of data before the next
	first  bool

	space [header.IPv6MinimumSize + header.TCPHeaderMaximumSize + 64]byte // for header
}

// begin takes over the packet and its reference.
func (c *cutter) begin(pkt *stack.PacketBuffer) {
	network, transport := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	c.pkt, c.ip, c.done, c.first = pkt, len(network), 0, true
	c.header = append(append(c.space[:0], network...), transport...)
	c.left, c.size = pkt.Data().Size(), 0
	if pkt.GSOOptions.Type != stack.GSONone && pkt.GSOOptions.NeedsCsum && len(transport) >= header.TCPMinimumSize {
		c.size = max(1, int(pkt.GSOOptions.MSS))
	}
	views, skip := pkt.AsViewList()
	c.view, c.at = views.Front(), skip+len(c.header)
	c.settle()
}

// settle moves on to the view that holds the next byte.
func (c *cutter) settle() {
	for c.view != nil && c.at >= c.view.Size() {
		c.at -= c.view.Size()
		c.view = c.view.Next()
	}
}

func (c *cutter) end() {
	if c.pkt != nil {
		c.pkt.DecRef()
		c.pkt, c.view, c.header = nil, nil, nil
	}
}

// next writes the next packet to b and gives its length; false when b or the MTU
// cannot take it (N1). The cutter is empty after the last.
func (c *cutter) next(b []byte, mtu int) (int, bool) {
	data := c.left
	if c.size > 0 {
		data = min(data, c.size, mtu-len(c.header))
	}
	n := len(c.header) + data
	if n > mtu || n > len(b) || data < 0 || data == 0 && c.left > 0 {
		c.end()
		return 0, false
	}
	b = b[:n]
	copy(b, c.header)
	c.copy(b[len(c.header):])
	c.left -= data
	if c.size > 0 {
		c.finish(b, data)
	}
	c.done += data
	c.first = false
	if c.left == 0 {
		c.end()
	}
	return n, true
}

func (c *cutter) copy(b []byte) {
	for len(b) > 0 {
		n := copy(b, c.view.AsSlice()[c.at:])
		b = b[n:]
		c.at += n
		c.settle()
	}
}

// finish gives a packet of a larger segment its own lengths, number, flags and
// checksums. FIN and PSH stand on the last alone, CWR on the first (RFC 3168, section
// 6.1.2).
func (c *cutter) finish(b []byte, data int) {
	ip, tcp := b[:c.ip], header.TCP(b[c.ip:])
	if c.done > 0 || c.left > 0 {
		tcp.SetSequenceNumber(tcp.SequenceNumber() + uint32(c.done))
		flags := tcp.Flags()
		if c.left > 0 {
			flags &^= header.TCPFlagFin | header.TCPFlagPsh
		}
		if !c.first {
			flags &^= header.TCPFlagCwr
		}
		tcp.SetFlags(uint8(flags))
	}
	var pseudo uint16
	if ip[0]>>4 == 4 {
		ip4 := header.IPv4(ip)
		if ip4.TotalLength() != uint16(len(b)) {
			ip4.SetTotalLength(uint16(len(b)))
			if id := ip4.ID(); id != 0 {
				ip4.SetID(id + uint16(c.done/c.size))
			}
			ip4.SetChecksum(0)
			ip4.SetChecksum(^ip4.CalculateChecksum())
		}
		pseudo = checksum.Checksum(ip[12:20], 0)
	} else {
		header.IPv6(ip).SetPayloadLength(uint16(len(b) - header.IPv6MinimumSize))
		pseudo = checksum.Checksum(ip[8:40], 0)
	}
	tcp.SetChecksum(0)
	tcp.SetChecksum(^checksum.Checksum(tcp, pseudoRest(pseudo, uint8(header.TCPProtocolNumber), len(tcp))))
}

// pseudoRest adds protocol and length of the pseudo header to the sum of its
// addresses (RFC 9293, section 3.1; RFC 8200, section 8.1).
func pseudoRest(sum uint16, proto uint8, length int) uint16 {
	var b [4]byte
	binary.BigEndian.PutUint16(b[:], uint16(proto))
	binary.BigEndian.PutUint16(b[2:], uint16(length))
	return checksum.Checksum(b[:], sum)
}
