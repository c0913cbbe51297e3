package wg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// udp is the way of datagrams over Linux: the kernel takes a train of them (udp(7),
// UDP_SEGMENT) from where they were sealed, and puts one (UDP_GRO) where they are opened.
type udp struct {
	sticky bool

	mu    sync.RWMutex
	socks []*socket // of IPv4 and of IPv6, if the host has both; none while it is closed
}

// newUDP is UDP, of both families on one port. A sticky one answers by the address that was
// asked: of an exit, which may have many.
func newUDP(sticky bool) conn.Bind { return &udp{sticky: sticky} }

// A socket is of one family.
type socket struct {
	c       *net.UDPConn
	is4     bool
	gather  atomic.Bool // it takes trains
	scatter bool        // it gives trains
	sticky  bool
	batches interface { // ipv4.PacketConn and ipv6.PacketConn, whose messages are one type
		ReadBatch(ms []ipv4.Message, flags int) (int, error)
		WriteBatch(ms []ipv4.Message, flags int) (int, error)
	}
}

const (
	udpBuffer = 7 << 20 // of a socket, bytes, as wireguard-go's
	maxTrain  = 64      // datagrams: UDP_MAX_SEGMENTS of include/linux/udp.h before 6.9
	maxBytes  = 65507   // of a train over IPv4
	maxOOB    = 128     // bytes: an address (IPV6_PKTINFO) and the size of a train
)

// udpEnd is another end: an address, and by which of ours it asked.
type udpEnd struct {
	to      netip.AddrPort
	addr    *net.UDPAddr
	src     []byte // a control message (IP_PKTINFO, IPV6_PKTINFO), or nil
	cleared atomic.Bool
}

func newUDPEnd(a netip.AddrPort) *udpEnd {
	a = unmapped(a)
	return &udpEnd{to: a, addr: net.UDPAddrFromAddrPort(a)}
}

func (e *udpEnd) ClearSrc()           { e.cleared.Store(true) }
func (e *udpEnd) SrcToString() string { return e.SrcIP().String() }
func (e *udpEnd) DstToString() string { return e.to.String() }
func (e *udpEnd) DstToBytes() []byte  { b, _ := e.to.MarshalBinary(); return b }
func (e *udpEnd) DstIP() netip.Addr   { return e.to.Addr() }

func (e *udpEnd) SrcIP() netip.Addr {
	if e.cleared.Load() || len(e.src) == 0 {
		return netip.Addr{}
	}
	switch _, data, _, err := unix.ParseOneSocketControlMessage(e.src); {
	case err != nil:
	case len(data) == unix.SizeofInet4Pktinfo: // ifindex, spec_dst, addr: ip(7)
		return netip.AddrFrom4([4]byte(data[4:8]))
	case len(data) == unix.SizeofInet6Pktinfo: // addr, ifindex: RFC 3542, 6.1
		return netip.AddrFrom16([16]byte(data[:16]))
	}
	return netip.Addr{}
}

func (*udp) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return newUDPEnd(a), nil
}

func (*udp) BatchSize() int { return batch }

func (w *udp) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.socks) > 0 {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	for range 100 { // a port that is free for one family may be taken for the other
		actual = port
		for _, is4 := range []bool{true, false} {
			var s *socket
			if s, actual, err = listen(is4, actual, w.sticky); errors.Is(err, syscall.EAFNOSUPPORT) {
				err = nil // the other family may do
				continue
			}
			if err != nil {
				break
			}
			w.socks = append(w.socks, s)
		}
		if port != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		w.shut()
	}
	if err == nil && len(w.socks) == 0 {
		err = syscall.EAFNOSUPPORT
	}
	if err != nil {
		w.shut()
		return nil, 0, err
	}
	for _, s := range w.socks {
		fns = append(fns, s.receiver())
	}
	return fns, actual, nil
}

// shut closes what is open. The caller holds the lock.
func (w *udp) shut() (err error) {
	for _, s := range w.socks {
		err = errors.Join(err, s.c.Close())
	}
	w.socks = nil
	return err
}

func (w *udp) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shut()
}

func (w *udp) SetMark(mark uint32) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for _, s := range w.socks {
		if err := s.set(unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			return err
		}
	}
	return nil
}

// Send fails for the first datagram that the kernel refuses, and leaves those behind it.
func (w *udp) Send(bufs [][]byte, end conn.Endpoint) error {
	e, ok := end.(*udpEnd)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	w.mu.RLock()
	var s *socket
	for _, o := range w.socks {
		if o.is4 == e.to.Addr().Is4() {
			s = o
		}
	}
	w.mu.RUnlock()
	if s == nil {
		return syscall.EAFNOSUPPORT
	}
	trains := s.gather.Load()
	n, err := s.send(bufs, e, trains)
	if !trains || err == nil {
		return err
	}
	switch {
	case errors.Is(err, unix.EIO): // the interface computes no checksums, udp(7)
		s.gather.Store(false)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE): // more than the path's MTU: one by one it is cut
	default:
		return err
	}
	_, err = s.send(bufs[n:], e, false)
	return err
}

// listen opens a socket on a port, 0 is any.
func listen(is4 bool, port uint16, sticky bool) (s *socket, actual uint16, err error) {
	network := "udp6"
	if is4 {
		network = "udp4"
	}
	c, err := new(net.ListenConfig).ListenPacket(context.Background(), network, net.JoinHostPort("", strconv.Itoa(int(port))))
	if err != nil {
		return nil, port, err
	}
	s = &socket{c: c.(*net.UDPConn), is4: is4, sticky: sticky}
	level, info := unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	s.batches = ipv6.NewPacketConn(c)
	if is4 {
		level, info = unix.IPPROTO_IP, unix.IP_PKTINFO
		s.batches = ipv4.NewPacketConn(c)
	}
	for _, o := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} { // the latter with CAP_NET_ADMIN, beyond what others may
		_ = s.set(unix.SOL_SOCKET, o, udpBuffer)
	}
	if sticky {
		if err := s.set(level, info, 1); err != nil {
			c.Close()
			return nil, port, fmt.Errorf("addresses of what comes: %w", err)
		}
	}
	s.scatter = s.set(unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	s.gather.Store(s.set(unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil) // 0: what is not said to be a train is none
	return s, s.c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

func (s *socket) set(level, option, value int) error {
	raw, err := s.c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) })
	return errors.Join(err, failed)
}

// sending is what a call needs.
type sending struct {
	msgs [batch]ipv4.Message
	oob  [batch][maxOOB]byte
}

var sendings = sync.Pool{New: func() any { return new(sending) }}

// send says how many went.
func (s *socket) send(bufs [][]byte, e *udpEnd, trains bool) (sent int, err error) {
	p := sendings.Get().(*sending)
	defer sendings.Put(p)
	for sent < len(bufs) && err == nil {
		msgs, k := p.lay(bufs[sent:], e, trains), 0
		k, err = s.batches.WriteBatch(msgs, 0)
		for _, m := range msgs[:max(k, 0)] {
			sent += len(m.Buffers)
		}
		clear(msgs)
	}
	return sent, err
}

// lay makes messages of datagrams, as many as there is room for.
func (p *sending) lay(bufs [][]byte, e *udpEnd, trains bool) []ipv4.Message {
	n := 0
	for ; len(bufs) > 0 && n < len(p.msgs); n++ {
		k, oob := 1, p.oob[n][:0]
		if trains {
			k = train(bufs)
		}
		if !e.cleared.Load() {
			oob = append(oob, e.src...)
		}
		if k > 1 {
			oob = appendTrain(oob, len(bufs[0]))
		}
		p.msgs[n] = ipv4.Message{Buffers: bufs[:k], OOB: oob, Addr: e.addr}
		bufs = bufs[k:]
	}
	return p.msgs[:n]
}

// train is how many of the first datagrams the kernel takes as one: all of a size, but the
// last, which may be smaller.
func train(bufs [][]byte) int {
	size, all := len(bufs[0]), len(bufs[0])
	for i, b := range bufs[1:] {
		if all += len(b); len(b) > size || all > maxBytes || i+1 == maxTrain {
			return i + 1
		}
		if len(b) < size {
			return i + 2
		}
	}
	return len(bufs)
}

// appendTrain has the kernel cut a message into datagrams of a size.
func appendTrain(oob []byte, size int) []byte {
	at := len(oob)
	oob = append(oob, make([]byte, unix.CmsgSpace(2))...)
	h := oob[at:]
	if unix.SizeofPtr == 8 {
		binary.NativeEndian.PutUint64(h, uint64(unix.CmsgLen(2)))
	} else {
		binary.NativeEndian.PutUint32(h, uint32(unix.CmsgLen(2)))
	}
	h = h[unix.SizeofPtr:]
	binary.NativeEndian.PutUint32(h, unix.SOL_UDP)
	binary.NativeEndian.PutUint32(h[4:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(oob[at+unix.CmsgLen(0):], uint16(size))
	return oob
}

// receiver is what one goroutine calls. A train is put where its datagrams are opened, by
// the size of those of the train before; one of another size is cut from a copy.
func (s *socket) receiver() conn.ReceiveFunc {
	each := 1 // datagrams that a message may have
	if s.scatter {
		each = maxTrain
	}
	msgs, rooms := make([]ipv4.Message, batch/each), make([][][]byte, batch/each)
	for i := range msgs {
		rooms[i] = make([][]byte, each)
		msgs[i].OOB = make([]byte, maxOOB)
	}
	expect := 0 // bytes; 0 until a train came
	whole := make([]byte, 0, 1<<16)
	var last *udpEnd
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		most, laid := min(len(msgs), len(bufs)/each), expect
		for i := range most {
			room := rooms[i]
			copy(room, bufs[i*each:])
			if laid == 0 {
				msgs[i].Buffers = room[:1]
				continue
			}
			for k := range each - 1 { // the last has room for all
				room[k] = room[k][:min(laid, len(room[k]))]
			}
			msgs[i].Buffers = room
		}
		n, err := s.batches.ReadBatch(msgs[:most], 0)
		if err != nil {
			return 0, err
		}
		clear(sizes)
		end := 0
		for i := range n {
			m, from := &msgs[i], i*each
			src, cut := s.controls(m.OOB[:m.NN])
			addr, ok := m.Addr.(*net.UDPAddr)
			if m.N == 0 || !ok || m.Flags&unix.MSG_TRUNC != 0 {
				continue
			}
			if to := unmapped(addr.AddrPort()); last == nil || last.to != to || string(last.src) != string(src) || last.cleared.Load() {
				last = newUDPEnd(to)
				last.src = append(last.src, src...)
			}
			if cut == 0 || cut > m.N {
				cut = m.N
			}
			if cut != laid && (m.N > cut || m.N > len(m.Buffers[0])) { // it lies otherwise than it is cut
				whole = whole[:0]
				for _, b := range m.Buffers {
					whole = append(whole, b[:min(len(b), m.N-len(whole))]...)
				}
				split(bufs[from:from+each], whole, cut)
			}
			if m.N > cut {
				expect = cut
			}
			for k := 0; k*cut < m.N && k < each; k++ {
				sizes[from+k], eps[from+k], end = min(cut, m.N-k*cut), last, from+k+1
			}
		}
		return end, nil
	}
}

// split puts datagrams of a size where they are opened.
func split(bufs [][]byte, all []byte, size int) {
	for k := 0; k < len(bufs) && len(all) > 0; k++ {
		all = all[copy(bufs[k], all[:min(size, len(all))]):]
	}
}

// controls reads by which address a message came, if that is asked for, and the size of
// the datagrams of a train.
func (s *socket) controls(oob []byte) (src []byte, size int) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return src, size
		}
		switch {
		case s.sticky && (h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO || h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO):
			src = oob[:len(oob)-len(rest)]
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			size = int(binary.NativeEndian.Uint32(data))
		}
		oob = rest
	}
	return src, size
}
