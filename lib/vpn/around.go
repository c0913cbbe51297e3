package vpn

import (
	"context"
	"net/netip"
	"slices"
	"syscall"
	"time"
	"top/lib/netcfg"
)

// around puts the tunnel around the host: the firewall first.
func (c *Client) around(ends []netip.AddrPort) error {
	c.mu.Lock()
	a4, dns := c.inner4, []netip.Addr{exit4()}
	if n := len(c.hops); n > 0 {
		ends = []netip.AddrPort{c.hops[0].t.to.end}
		dns = append(dns, c.hops[n-1].t.peer)
	}
	c.mu.Unlock()
	c.netMu.Lock()
	defer c.netMu.Unlock()
	if c.gaveBack {
		return nil
	}
	return netcfg.Up(netcfg.Tunnel{
		Name: c.tun.Name(), Addrs: []netip.Prefix{netip.PrefixFrom(a4, 32), netip.PrefixFrom(c.key.Public().Inner(), 128)}, MTU: c.cfg.mtu(),
		Mark: clientMark, Endpoints: ends, Include: c.cfg.Include, Exclude: c.cfg.Exclude, AllowLAN: c.cfg.AllowLAN, DNS: dns, KillSwitch: c.cfg.KillSwitch,
	})
}

// guard puts the firewall back when somebody else flushed it (X6).
func (c *Client) guard(ctx context.Context) error {
	for pause(ctx, guardEvery) {
		left, err := netcfg.Left()
		if err != nil || slices.ContainsFunc(left, func(s netcfg.State) bool { return s.Name == c.tun.Name() }) {
			continue
		}
		c.log.Warn("the firewall was flushed: set again", "room", c.tun.Name())
		if err := c.around(nil); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

const guardEvery = time.Second

// endpoints lets our packets out to these addresses, and no others.
func (c *Client) endpoints(ends []netip.AddrPort) error {
	if !c.managed() {
		return nil
	}
	return netcfg.SetEndpoints(c.tun.Name(), ends)
}

// marked marks a socket before it connects, so that it goes around the tunnel.
func marked(mark uint32) func(string, string, syscall.RawConn) error {
	if mark == 0 {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_MARK, int(mark)) }); e != nil {
			return e
		}
		return err
	}
}

// Lift takes back what tunnels left around the host: kill switches, routes, rules. It
// says of which interfaces.
func Lift() (names []string, err error) {
	left, err := netcfg.Left()
	if err != nil {
		return nil, err
	}
	for _, s := range left {
		if s.Exit {
			continue
		}
		if err := netcfg.Down(s.Name); err != nil {
			return names, err
		}
		names = append(names, s.Name)
	}
	return names, nil
}

// KillSwitches are those that stand, with or without a tunnel.
func KillSwitches() (names []string, err error) {
	left, err := netcfg.Left()
	for _, s := range left {
		if s.KillSwitch {
			names = append(names, s.Name)
		}
	}
	return names, err
}
