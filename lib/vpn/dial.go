package vpn

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"top/lib/socks"
	"top/lib/top"
)

// dial connects through the tunnel. A name is asked of the exit's resolver.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, top.Errorf(top.Invalid, "%q is no address", addr)
	}
	last, err := c.await(ctx)
	if err != nil {
		return nil, err
	}
	last.mu.Lock()
	own := last.terms.Own
	last.mu.Unlock()
	if host == "localhost" && own {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return c.connect(ctx, network, ip, port, own)
	}
	ips, err := c.resolver().LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, top.Errorf(top.NotFound, "the exit's resolver knows no %s: %v", host, err)
	}
	for _, ip := range ips {
		var conn net.Conn
		if conn, err = c.connect(ctx, network, ip, port, own); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// connect connects to an address beyond the exit. own says that the exit serves its own
// machine, for tests.
func (c *Client) connect(ctx context.Context, network string, ip netip.Addr, port string, own bool) (net.Conn, error) {
	ip = ip.Unmap()
	switch {
	case ip.IsLoopback() && own:
		ip = host4()
	case ip.IsLoopback() || ip.IsUnspecified():
		return nil, top.Errorf(top.Denied, "%s is this machine: no exit leads there (leave it out of what uses the tunnel)", ip)
	}
	return c.stack.DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
}

func (c *Client) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return c.stack.DialContext(ctx, network, netip.AddrPortFrom(exit4(), 53).String())
	}}
}

// proxy lets programs of this machine use the tunnel (RFC 1928, HTTP CONNECT).
func (c *Client) proxy(ctx context.Context) error {
	l, err := net.Listen("tcp", c.cfg.Socks)
	if err != nil {
		return unheard("--socks "+c.cfg.Socks, err)
	}
	c.mu.Lock()
	c.cfg.Socks = l.Addr().String()
	c.mu.Unlock()
	s, err := socks.New(socks.Config{Listener: l, Dial: c.dial, Log: c.log})
	if err != nil {
		l.Close()
		return err
	}
	return s.Run(ctx)
}

// unheard says why a port cannot be listened on.
func unheard(what string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return top.Errorf(top.Busy, "%s: another program has that port (choose another; a port 0 takes a free one)", what)
	}
	return top.Errorf(top.Failed, "%s: %v", what, err)
}

// await waits until the tunnel carries.
func (c *Client) await(ctx context.Context) (*tunnel, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	for {
		c.mu.Lock()
		hops, ready, problem := c.hops, c.ready, c.problem
		c.mu.Unlock()
		if len(hops) > 0 {
			return hops[len(hops)-1].t, nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, top.Errorf(top.Offline, "the tunnel is not up: %s", cmp.Or(problem, "it is being built"))
		}
	}
}
