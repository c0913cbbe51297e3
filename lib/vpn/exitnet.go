package vpn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"top/lib/netcfg"
	"top/lib/netstack"
	"top/lib/policy"
	"top/lib/top"
	"top/lib/wg"
)

// exitNet is what becomes of packets that clients send: TCP/IP in user space that
// connects on the host, or a kernel interface whose packets the host forwards.
type exitNet struct {
	e    *Exit
	line wg.Line
	name string // of the kernel interface; "" is none

	stack *netstack.Stack
	tun   *wg.TUN
	stop  func() error // takes the host's firewall back
	done  sync.WaitGroup
	dns   []interface{ Close() error }
}

func newExitNet(e *Exit) (*exitNet, error) {
	n := &exitNet{e: e}
	n.own()
	var err error
	switch {
	case e.cfg.TUNFile != nil:
		n.tun, err = wg.TUNFromFile(e.cfg.TUNFile, e.cfg.MTU)
	case e.cfg.TUN != "":
		n.tun, err = wg.NewTUN(e.cfg.TUN, e.cfg.MTU)
	default:
		n.stack, err = netstack.New(netstack.Config{
			Addrs: []netip.Addr{exit4(), e.inner}, MTU: e.cfg.MTU, Log: e.log,
			Forward: &netstack.Forward{TCP: n.tcp, UDP: n.udp, Echo: n.echo},
		})
	}
	if err != nil {
		return nil, err
	}
	if n.tun != nil {
		n.line, n.name = n.tun, n.tun.Name()
		err = n.host()
	} else {
		n.line = n.stack
	}
	if err == nil {
		err = n.resolve()
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *exitNet) close() {
	for _, c := range n.dns {
		c.Close()
	}
	if n.stack != nil {
		n.stack.Close()
	}
	if n.stop != nil {
		if err := n.stop(); err != nil {
			n.e.log.Warn("take the firewall back", "err", err)
		}
	}
	if n.tun != nil {
		n.tun.Close()
	}
	n.done.Wait()
}

// host sets what the kernel does with packets: addresses, the firewall, NAT.
func (n *exitNet) host() error {
	if n.e.cfg.TUNFile != nil {
		return nil // whoever handed it over sets it
	}
	err := netcfg.Serve(netcfg.Exit{
		Name: n.name, Addrs: []netip.Prefix{netip.PrefixFrom(exit4(), inner4().Bits()), netip.PrefixFrom(n.e.inner, inner6().Bits())}, MTU: n.e.cfg.MTU,
		Inner: []netip.Prefix{inner4(), inner6()}, Local: []policy.Ports{{Protocol: policy.UDP, First: 53, Last: 53}, {Protocol: policy.TCP, First: 53, Last: 53}}, Policy: n.e.cfg.Policy,
	})
	n.stop = func() error { return netcfg.Stop(n.name) }
	return err
}

// keep lets the kernel's firewall know when this machine's networks change.
func (n *exitNet) keep() error {
	if n.stop == nil {
		return nil
	}
	return netcfg.Keep(n.e.ctx, n.name, n.e.cfg.Policy)
}

// own tells the policy which addresses and networks are this machine's.
func (n *exitNet) own() {
	if n.e.cfg.AllowLoopback || n.stop != nil {
		return
	}
	var own []netip.Prefix
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		n.e.log.Warn("this machine's addresses", "err", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Masked())
		}
	}
	n.e.cfg.Policy.SetOwn(append(own, inner4(), inner6()))
}

// where maps what a client asks for to where it is on the host.
func (n *exitNet) where(proto policy.Protocol, dst netip.AddrPort) (netip.AddrPort, error) {
	if dst.Addr() == host4() && n.e.cfg.AllowLoopback {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dst.Port()), nil
	}
	return dst, n.e.allow(proto, dst)
}

// allow asks the policy (X3). For tests this machine's own addresses are served.
func (e *Exit) allow(proto policy.Protocol, dst netip.AddrPort) error {
	if e.cfg.AllowLoopback && e.mine(dst.Addr()) {
		return nil
	}
	if err := e.cfg.Policy.Allow(proto, dst, e.now()); err != nil {
		return top.Errorf(top.Denied, "%v", err)
	}
	return nil
}

// mine says whether an address is this machine's.
func (e *Exit) mine(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	addrs, _ := net.InterfaceAddrs()
	for _, o := range addrs {
		if p, err := netip.ParsePrefix(o.String()); err == nil && p.Addr() == a {
			return true
		}
	}
	return false
}

func (n *exitNet) tcp(ctx context.Context, f netstack.Flow) (net.Conn, error) {
	dst, err := n.where(policy.TCP, f.Dst)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", dst.String())
}

func (n *exitNet) udp(ctx context.Context, f netstack.Flow) (net.Conn, error) {
	dst, err := n.where(policy.UDP, f.Dst)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "udp", dst.String())
}

func (n *exitNet) echo(ctx context.Context, f netstack.Flow, payload []byte) error {
	dst, err := n.where(policy.ICMP, netip.AddrPortFrom(f.Dst.Addr(), 0))
	if err != nil {
		return err
	}
	return netstack.Ping(ctx, dst.Addr(), payload)
}

// resolve answers names on the exit's own addresses, so that no question leaves
// beside the tunnel.
func (n *exitNet) resolve() error {
	r := &resolver{upstream: n.e.cfg.Resolver, learn: func(name string, addrs []netip.Addr, ttl time.Duration) {
		n.e.cfg.Policy.Learn(name, addrs, n.e.now(), n.e.now().Add(ttl))
	}}
	if len(r.upstream) == 0 {
		r.upstream = systemResolvers("/etc/resolv.conf")
	}
	for _, a := range []netip.Addr{exit4(), n.e.inner} {
		at := netip.AddrPortFrom(a, 53)
		pc, err := n.listenPacket(at)
		if err != nil {
			return top.Errorf(top.Failed, "answer names on %s: %v", at, err)
		}
		l, err := n.listenTCP(at)
		if err != nil {
			pc.Close()
			return top.Errorf(top.Failed, "answer names on %s: %v", at, err)
		}
		n.dns = append(n.dns, pc, l)
		n.done.Go(func() { r.datagrams(n.e.ctx, pc) })
		n.done.Go(func() { r.streams(n.e.ctx, l) })
	}
	return nil
}

func (n *exitNet) listenPacket(at netip.AddrPort) (net.PacketConn, error) {
	if n.stack != nil {
		return n.stack.ListenPacket(at)
	}
	return net.ListenPacket("udp", at.String())
}

func (n *exitNet) listenTCP(at netip.AddrPort) (net.Listener, error) {
	if n.stack != nil {
		return n.stack.Listen(at)
	}
	return net.Listen("tcp", at.String())
}

// reachable is the address of this machine from which packets leave: what others
// would reach, unless a NAT is between.
func reachable() string {
	c, err := net.Dial("udp", "192.0.2.1:9") // sends nothing
	if err != nil {
		return "127.0.0.1"
	}
	defer c.Close()
	a, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return "127.0.0.1"
	}
	return a.IP.String()
}

var errNoResolver = errors.New("no resolver answers")
