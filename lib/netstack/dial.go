package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"top/lib/top"
)

type protocolNumber = tcpip.NetworkProtocolNumber

// A Conn is a TCP connection through the tunnel.
type Conn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// DialContext connects to an address and port from an address of the stack's own.
// network is tcp or udp, with 4 or 6 if it matters; names are resolved by nobody
// here. A TCP connection is a *Conn.
func (s *Stack) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s %s: %w: %w", network, addr, err, top.ErrInvalid)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	kind, family := network, byte(0)
	if n := len(network); n > 0 && (network[n-1] == '4' || network[n-1] == '6') {
		kind, family = network[:n-1], network[n-1]
	}
	if family == '4' && !to.Addr().Is4() || family == '6' && to.Addr().Is4() || kind != "tcp" && kind != "udp" {
		return nil, fmt.Errorf("dial %s %s: %w", network, addr, top.ErrInvalid)
	}
	from, ok := s.ownLike(to.Addr())
	if !ok {
		return nil, fmt.Errorf("dial %s %s: no inner address of that family: %w", network, addr, top.ErrOffline)
	}
	if s.ctx.Err() != nil {
		return nil, s.closed("dial")
	}
	local, remote := full(netip.AddrPortFrom(from, 0)), full(to)
	if kind == "udp" {
		c, err := gonet.DialUDP(s.stack, &local, &remote, protocolOf(from))
		if err != nil {
			return nil, fmt.Errorf("dial %s %s: %w: %w", network, addr, err, top.ErrOffline)
		}
		return c, nil
	}
	c, err := s.dialTCP(ctx, local, remote, protocolOf(from))
	if err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, addr, err)
	}
	return c, nil
}

func (s *Stack) dialTCP(ctx context.Context, local, remote tcpip.FullAddress, proto protocolNumber) (*Conn, error) {
	var wq waiter.Queue
	ep, terr := s.stack.NewEndpoint(tcp.ProtocolNumber, proto, &wq)
	if terr != nil {
		return nil, fmt.Errorf("%s: %w", terr, top.ErrFailed)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if terr = ep.Bind(local); terr == nil {
		terr = ep.Connect(remote)
	}
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Close()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, fmt.Errorf("%w: %w", ctx.Err(), top.ErrTimeout)
			}
			return nil, ctx.Err()
		case <-s.ctx.Done():
			ep.Close()
			return nil, s.closed("connect")
		case <-ready:
		}
		terr = ep.LastError()
	}
	if terr != nil {
		ep.Close()
		return nil, dialError(terr)
	}
	keepAlive(ep)
	return &Conn{gonet.NewTCPConn(&wq, ep), ep}, nil
}

// dialError says why there is no connection, as the host's own stack would.
func dialError(terr tcpip.Error) error {
	switch terr.(type) {
	case *tcpip.ErrConnectionRefused, *tcpip.ErrConnectionReset:
		return fmt.Errorf("%w: %w", syscall.ECONNREFUSED, top.ErrOffline)
	case *tcpip.ErrTimeout:
		return fmt.Errorf("%w: %w", syscall.ETIMEDOUT, top.ErrTimeout)
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown:
		return fmt.Errorf("%w: %w", syscall.EHOSTUNREACH, top.ErrOffline)
	case *tcpip.ErrNetworkUnreachable:
		return fmt.Errorf("%w: %w", syscall.ENETUNREACH, top.ErrOffline)
	}
	return fmt.Errorf("%s: %w", terr, top.ErrFailed)
}

// keepAlive makes an end that is gone known.
func keepAlive(ep tcpip.Endpoint) {
	ep.SocketOptions().SetKeepAlive(true)
	idle, every := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepEvery)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&every)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, 5)
}

// Listen accepts TCP connections at one of the stack's own addresses; port 0 takes a
// free one.
func (s *Stack) Listen(addr netip.AddrPort) (net.Listener, error) {
	if !s.isOwn(addr.Addr()) {
		return nil, fmt.Errorf("listen on %s: no inner address: %w", addr, top.ErrInvalid)
	}
	l, err := gonet.ListenTCP(s.stack, full(addr), protocolOf(addr.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w: %w", addr, err, top.ErrBusy)
	}
	return l, nil
}

// ListenPacket takes datagrams at one of the stack's own addresses; port 0 takes a
// free one.
func (s *Stack) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	if !s.isOwn(addr.Addr()) {
		return nil, fmt.Errorf("listen on %s: no inner address: %w", addr, top.ErrInvalid)
	}
	local := full(addr)
	c, err := gonet.DialUDP(s.stack, &local, nil, protocolOf(addr.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w: %w", addr, err, top.ErrBusy)
	}
	return c, nil
}

func (s *Stack) closed(what string) error {
	return fmt.Errorf("netstack %s: %w: %w", what, net.ErrClosed, top.ErrOffline)
}

// Reset ends a connection at once, and tells the other side by a reset.
func (c *Conn) Reset() { c.ep.Abort() }

// WriteTo copies to w until the other side has closed (io.WriterTo).
func (c *Conn) WriteTo(w io.Writer) (int64, error) { return pump(w, c.TCPConn, nil) }

// ReadFrom copies from r until it ends (io.ReaderFrom).
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return pump(c.TCPConn, r, nil) }

// pump copies until src ends, with a buffer that is small while little comes: a
// connection that idles holds 4 KiB. Each time that something came it calls touch.
func pump(dst io.Writer, src io.Reader, touch func()) (total int64, err error) {
	small := make([]byte, smallBuffer)
	var large *[largeBuffer]byte
	defer func() {
		if large != nil {
			buffers.Put(large)
		}
	}()
	for {
		b := small
		if large != nil {
			b = large[:]
		}
		n, err := src.Read(b)
		if n > 0 {
			if touch != nil {
				touch()
			}
			if _, err := dst.Write(b[:n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return total, err
		}
		switch {
		case large == nil && n == len(small):
			large = buffers.Get().(*[largeBuffer]byte)
		case large != nil && n < smallBuffer:
			buffers.Put(large)
			large = nil
		}
	}
}
