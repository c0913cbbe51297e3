package vpn

import (
	"context"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"top/lib/api"
	"top/lib/netcfg"
)

// around puts the tunnel around the host: the firewall first.
func (c *Client) around() error {
	c.mu.Lock()
	a4, dns, ends, spared := c.inner4, []netip.Addr{exit4()}, c.ends, c.spared
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
		Mark: clientMark, Endpoints: ends, Include: c.cfg.Include, Exclude: c.cfg.Exclude, AllowLAN: c.cfg.AllowLAN, Spare: spared, DNS: dns, KillSwitch: c.cfg.KillSwitch,
	})
}

// spares asks the chain daemon whom it has to reach: it needs them before there is a
// tunnel, to open a channel, and when the tunnel stands still for want of one. It says
// whether that is other than it was. A daemon that does not answer changes nothing.
func (c *Client) spares(ctx context.Context) bool {
	if c.cfg.SpareNone {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, guardEvery)
	defer cancel()
	var all []netip.AddrPort
	err := c.cfg.Chain.Dials(ctx, func(d api.Dial) error {
		if a, err := netip.ParseAddrPort(d.Addr); err == nil && !a.Addr().IsLoopback() && a.Port() != 0 && len(all) < maxSpared {
			all = append(all, a)
		}
		return nil
	})
	if err != nil {
		return false
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Equal(all, c.spared) {
		return false
	}
	c.spared = all
	return true
}

const (
	sparesEvery = 5  // looks of guard
	maxSpared   = 64 // more is no client's daemon
)

// guard puts the firewall back when somebody else flushed it (X6), and follows the chain
// daemon's peers.
func (c *Client) guard(ctx context.Context) error {
	for n := 1; pause(ctx, guardEvery); n++ {
		if n%sparesEvery == 0 && c.spares(ctx) {
			if err := c.around(); err != nil && ctx.Err() == nil {
				return err
			}
		}
		left, err := netcfg.Left()
		if err != nil || slices.ContainsFunc(left, func(s netcfg.State) bool { return s.Name == c.tun.Name() }) {
			continue
		}
		c.log.Warn("the firewall was flushed: set again", "room", c.tun.Name())
		if err := c.around(); err != nil && ctx.Err() == nil {
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
	c.mu.Lock()
	c.ends = ends
	c.mu.Unlock()
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
