package netcfg

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"top/lib/top"
)

// TestMain is also the client that a test kills: it makes the TUN, goes up, says
// so and waits for its end.
func TestMain(m *testing.M) {
	if os.Getenv("NETCFG_CLIENT") == "" {
		os.Exit(m.Run())
	}
	tun, err := openTUN(tunName)
	if err == nil {
		err = Up(tunnel())
	}
	fmt.Println("up", err)
	_, _ = io.Copy(io.Discard, tun)
}

// up goes up in the world's client, with the test holding the TUN.
func (w *world) up(t Tunnel) {
	w.t.Helper()
	w.client.in(func() error { return Up(t) })
}

func TestNC1_NothingLeaksAtAnyStep(t *testing.T) {
	w := newWorld(t)
	w.client.openTUN(tunName)
	w.open("before")
	tn := tunnel()
	var link netlink.Link
	w.client.in(func() (err error) { link, err = linkOf(tunName); return errors.Join(err, tn.check()) })
	stop, from := func() {}, 0
	for i, step := range tn.upSteps(link) {
		w.client.in(step)
		if i == 0 {
			from = w.flush(endpoint)
			stop = w.storm()
		}
		w.closed(fmt.Sprint("step up ", i))
	}
	var notes map[string]string
	w.client.in(func() (err error) { notes, err = recorded(tunnelPrefix + tunName); return err })
	steps := downSteps(tunName, notes, new(bool))
	firewall := len(steps) - 2 // after it all is open, as before
	for i, step := range steps {
		if i == firewall {
			stop()
			if found := w.cable.leaks(from, w.flush(endpoint), outer(endpoint, endpoint6)); len(found) > 0 {
				t.Errorf("meanwhile: %q", found)
			}
		}
		w.client.in(step)
		if i < firewall {
			w.closed(fmt.Sprint("step down ", i))
		}
	}
	w.open("after")
}

func TestNC1_NothingLeaksWhenTheProcessIsKilled(t *testing.T) {
	w := newWorld(t)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "NETCFG_CLIENT=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// A child begins in the namespace of the thread that starts it.
	w.client.in(child.Start)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up <nil>\n" {
		_ = child.Process.Kill()
		t.Fatalf("the client: %q, %v", line, err)
	}
	w.closed("up")
	from := w.flush(endpoint)
	stop := w.storm()
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	w.closed("killed")
	w.client.in(func() error {
		if _, err := linkOf(tunName); !errors.Is(err, top.ErrNotFound) {
			return fmt.Errorf("the interface is still there: %v", err)
		}
		states, err := Left()
		if err == nil && (len(states) != 1 || states[0].Name != tunName || states[0].Alive || !states[0].KillSwitch || states[0].Mark != mark) {
			err = fmt.Errorf("left: %+v", states)
		}
		return err
	})
	// The next process takes over where this one was killed, and then all is open.
	w.client.openTUN(tunName)
	w.closed("a new interface")
	w.up(tunnel())
	w.closed("up again")
	stop()
	if found := w.cable.leaks(from, w.flush(endpoint), outer(endpoint, endpoint6)); len(found) > 0 {
		t.Errorf("meanwhile: %q", found)
	}
	w.client.in(func() error { return Down(tunName) })
	w.open("down")
}

func TestNC1_NothingLeaksWhenTheExitChanges(t *testing.T) {
	w := newWorld(t)
	w.client.openTUN(tunName)
	w.up(tunnel())
	from := w.flush(endpoint)
	stop := w.storm()
	other := netip.MustParseAddrPort("203.0.113.6:4501")
	outside := func(when string, reaches, not netip.AddrPort) {
		t.Helper()
		from := w.flush(reaches)
		w.client.in(func() error { _ = udp(not.String(), withMark(mark)); return nil })
		if found := w.cable.leaks(from, w.flush(reaches), outer(reaches)); len(found) > 0 {
			t.Errorf("%s: %q", when, found)
		}
	}
	outside("before", endpoint, other)
	w.client.in(func() error { return SetEndpoints(tunName, []netip.AddrPort{other}) })
	outside("after", other, endpoint)
	// The same by Up, with other inner addresses and another resolver.
	next := tunnel()
	next.Addrs = []netip.Prefix{netip.MustParsePrefix("10.67.0.9/32"), netip.MustParsePrefix("fd67::9/128")}
	next.DNS = []netip.Addr{netip.MustParseAddr("10.67.0.1"), netip.MustParseAddr("fd67::1")}
	w.up(next)
	outside("up again", endpoint, other)
	stop()
	if found := w.cable.leaks(from, w.flush(endpoint), outer(endpoint, endpoint6, other)); len(found) > 0 {
		t.Errorf("meanwhile: %q", found)
	}
	w.client.in(func() error {
		link, err := linkOf(tunName)
		if err != nil {
			return err
		}
		var got []string
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				got = append(got, a.IPNet.String())
			}
		}
		if !slices.Equal(got, []string{"10.67.0.9/32", "fd67::9/128"}) {
			err = fmt.Errorf("addresses %q", got)
		}
		return err
	})
	for _, bad := range [][]netip.AddrPort{{{}}, {netip.AddrPortFrom(endpoint.Addr(), 0)}} {
		w.client.in(func() error {
			if err := SetEndpoints(tunName, bad); !errors.Is(err, top.ErrInvalid) {
				return fmt.Errorf("%v: %v", bad, err)
			}
			return nil
		})
	}
	outside("refused endpoints", endpoint, other)
}

// leave says which of the ways are seen outside.
func (w *world) leave(ways []probe) (seen []string) {
	w.t.Helper()
	for _, p := range ways {
		from := w.flush(endpoint)
		w.client.in(func() error { _ = p.send(); return nil })
		if len(w.cable.leaks(from, w.flush(endpoint), func(x packet) bool { return !p.seen(x) })) > 0 {
			seen = append(seen, p.name)
		}
	}
	return seen
}

func TestNC1_WhatIsAllowedOutside(t *testing.T) {
	lanWays := []string{"local network", "local network by IPv6", "mDNS", "mDNS by IPv6"}
	to6 := []string{"udp by IPv6", "bound to the interface by IPv6", "marked, elsewhere by IPv6", "tcp [2001:db8:99::7]:7784", "echo 2001:db8:99::7"}
	everything := []string{}
	for _, p := range probes() {
		everything = append(everything, p.name)
	}
	questions := func(name string) bool { return strings.Contains(name, "question") || strings.Contains(name, "53") }
	for name, tc := range map[string]struct {
		change func(*Tunnel)
		want   []string
		gone   []string // when the interface is gone
	}{
		"kill switch": {func(*Tunnel) {}, nil, nil},
		"local":       {func(t *Tunnel) { t.AllowLAN = true }, lanWays, lanWays},
		"local, and IPv4 alone": {func(t *Tunnel) { t.AllowLAN, t.Addrs, t.DNS = true, t.Addrs[:1], t.DNS[:1] },
			lanWays, lanWays},
		"IPv6 alone": {func(t *Tunnel) { t.Addrs, t.DNS = t.Addrs[1:], t.DNS[1:] }, nil, nil},
		"excluded": {func(t *Tunnel) { t.Exclude = []netip.Prefix{netip.MustParsePrefix("2001:db8:99::/48")} },
			to6, to6},
	} {
		w := newWorld(t)
		tun := w.client.openTUN(tunName)
		tn := tunnel()
		tc.change(&tn)
		w.up(tn)
		if got := w.leave(probes()); !same(got, tc.want) {
			t.Errorf("%s: %q leave, want %q", name, got, tc.want)
		}
		tun.Close()
		if got := w.leave(probes()); !same(got, tc.gone) {
			t.Errorf("%s, without an interface: %q leave, want %q", name, got, tc.gone)
		}
	}
	// Without a kill switch routes hold what they can while the interface is there.
	w := newWorld(t)
	tun := w.client.openTUN(tunName)
	tn := tunnel()
	tn.KillSwitch, tn.Addrs, tn.DNS = false, tn.Addrs[:1], tn.DNS[:1]
	w.up(tn)
	// A route that a DHCP server handed out does not draw traffic out.
	w.client.route("eth0", "198.51.100.0/25", lanHost)
	open := []string{"marked, a question", "bound to the interface", "mDNS", "mDNS by IPv6", "marked, elsewhere", "marked, elsewhere by IPv6", "marked, another port", "bound to the interface by IPv6"}
	if got := slices.DeleteFunc(w.leave(probes()), func(n string) bool { return slices.Contains(open, n) }); len(got) > 0 {
		t.Errorf("no kill switch: %q leave", got)
	}
	tun.Close()
	got := w.leave(probes())
	for _, name := range everything {
		closed := questions(name) && name != "marked, a question" || strings.Contains(name, "IPv6") && !slices.Contains(open, name) || strings.Contains(name, public6)
		if slices.Contains(got, name) == closed {
			t.Errorf("no kill switch and no interface: %s leaves: %v", name, !closed)
		}
	}
}

// What is spared is reached by anybody, by that port and no other of the same address, over
// a change and when the interface is gone; the answers come in under a strict reverse path
// filter.
func TestNC1_OneSparedPortIsReachedAndNoOther(t *testing.T) {
	w := newWorld(t)
	tun := w.client.openTUN(tunName)
	tn := tunnel()
	at := netip.MustParseAddrPort(publicHost + ":4001")
	tn.Spare = []netip.AddrPort{at, netip.MustParseAddrPort("[" + public6 + "]:4001")}
	w.client.in(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/rp_filter", []byte("1"), 0) })
	w.up(tn)
	var l *net.UDPConn
	w.router.in(func() (err error) { l, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); return err })
	defer l.Close()
	go answer(l, "here")
	check := func(when string, reached bool) {
		t.Helper()
		var text string
		var err error
		w.client.in(func() error { text, err = ask(at, nil); return nil })
		if (err == nil && text == "here") != reached {
			t.Errorf("%s: %q, %v", when, text, err)
		}
		if got := w.leave(probes()); len(got) > 0 { // to other ports of both addresses among them
			t.Errorf("%s: %q leave", when, got)
		}
	}
	check("spared", true)
	w.up(tn)
	check("up again", true)
	tun.Close()
	check("without an interface", true)
	w.client.openTUN(tunName)
	tn.Spare = nil
	w.up(tn)
	check("spared no more", false)
	tn.Spare = []netip.AddrPort{netip.AddrPortFrom(at.Addr(), 0)}
	if err := Up(tn); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("port 0: %v", err)
	}
}

func same(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

func TestNC1_AGuestOfTheHostDoesNotLeakEither(t *testing.T) {
	w := newWorld(t)
	guest := newSpace(t)
	join(w.client, "guest0", guest, "eth0")
	w.client.addr("guest0", "192.168.99.1/24", "fd99::1/64")
	guest.addr("eth0", "192.168.99.2/24", "fd99::2/64")
	guest.route("eth0", "0.0.0.0/0", "192.168.99.1")
	guest.route("eth0", "::/0", "fd99::1")
	w.client.in(func() error { return errors.Join(writeSysctl(forward4, "1"), writeSysctl(forward6, "1")) })
	tun := w.client.openTUN(tunName)
	inside := record(t, tun)
	ways := []string{at(publicHost, 7777), at(public6, 7777), at(publicHost, 53), at(lanHost, 53), at(lan6, 53), at(lanHost, 7777)}
	guest.in(func() error { return udp(ways[0], nil) })
	w.cable.wait(0, "the guest's packet before", toward4(ways[0]))
	w.up(tunnel())
	for _, to := range ways {
		start, from := inside.len(), w.flush(endpoint)
		guest.in(func() error { _ = udp(to, nil); return nil })
		want := netip.MustParseAddrPort(to)
		if want.Port() == 53 {
			want = netip.AddrPortFrom(tunnel().DNS[map[bool]int{true: 0, false: 1}[want.Addr().Is4()]], 53)
		}
		inside.wait(start, "the guest's packet to "+to+" in the tunnel, from its own address", func(p packet) bool {
			return p.dst == want && (p.src.Addr() == tunnel().Addrs[0].Addr() || p.src.Addr() == tunnel().Addrs[1].Addr())
		})
		if found := w.cable.leaks(from, w.flush(endpoint), outer(endpoint)); len(found) > 0 {
			t.Errorf("the guest: %q", found)
		}
	}
	tun.Close()
	from := w.flush(endpoint)
	for _, to := range ways {
		guest.in(func() error { _ = udp(to, nil); return nil })
	}
	if found := w.cable.leaks(from, w.flush(endpoint), outer(endpoint)); len(found) > 0 {
		t.Errorf("the guest, without an interface: %q", found)
	}
}

func TestNC1_WhatOthersRedirectDoesNotLeak(t *testing.T) {
	w := newWorld(t)
	w.client.openTUN(tunName)
	// Somebody else's table sends a service on this host elsewhere, as container
	// engines do.
	w.client.in(func() error {
		b, err := open("engine")
		if err != nil {
			return err
		}
		b.renew()
		c := b.base("nat", hook{nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest, false})
		b.rule(c, "", dst.is(netip.MustParseAddr("192.168.7.2")), toward(netip.MustParseAddr(publicHost)))
		return b.commit()
	})
	send := func() error { return udp(at("192.168.7.2", 7790), nil) }
	w.client.in(send)
	w.cable.wait(0, "redirected packet", toward4(at(publicHost, 7790)))
	w.up(tunnel())
	for _, when := range []string{"up", "without routes"} {
		from := w.flush(endpoint)
		w.client.in(func() error { _ = send(); return nil })
		if found := w.cable.leaks(from, w.flush(endpoint), outer(endpoint)); len(found) > 0 {
			t.Errorf("%s: %q", when, found)
		}
		w.client.in(func() error { _, err := removeRules(tunName); return err })
	}
}

func TestNC1_NobodyOutsideReachesAnInnerAddress(t *testing.T) {
	w := newWorld(t)
	tun := w.client.openTUN(tunName)
	w.up(tunnel())
	w.router.route("lan0", "10.66.0.2/32", "192.168.7.2")
	var c *net.UDPConn
	w.client.in(func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP("10.66.0.2")})
		return err
	})
	defer c.Close()
	inner := c.LocalAddr().(*net.UDPAddr).AddrPort()
	w.router.in(func() error { return udp(inner.String(), nil) })
	if _, err := tun.Write(build(unix.IPPROTO_UDP, netip.MustParseAddrPort(at("10.66.0.1", 9)), inner, []byte("inside"))); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 100)
	if n, from, err := c.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != "inside" {
		t.Errorf("%q from %s, %v", b[:n], from, err)
	}
}

func TestNC1_OuterSocketsWorkUnderAStrictReversePathFilter(t *testing.T) {
	w := newWorld(t)
	w.client.openTUN(tunName)
	w.client.in(func() error {
		return errors.Join(writeSysctl("net/ipv4/conf/all/rp_filter", "1"), writeSysctl("net/ipv4/conf/eth0/rp_filter", "1"))
	})
	w.up(tunnel())
	for _, e := range []netip.AddrPort{endpoint, endpoint6} {
		var far *net.UDPConn
		w.router.in(func() (err error) { far, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(e)); return err })
		defer far.Close()
		go answer(far, "pong")
		w.client.in(func() error {
			got, err := ask(e, withMark(mark))
			if err == nil && got != "pong" {
				err = fmt.Errorf("%q", got)
			}
			return err
		})
	}
}

// answer answers every datagram until the connection is closed.
func answer(c *net.UDPConn, text string) {
	b := make([]byte, 2048)
	for {
		_, from, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		_, _ = c.WriteToUDPAddrPort([]byte(text), from)
	}
}

// ask sends a datagram and waits for the answer.
func ask(to netip.AddrPort, set func(int) error) (string, error) {
	c, err := dialUDP(to.String(), set)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte(canary)); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func TestNC2_QuestionsGoToTheExitWhateverTheyWereFor(t *testing.T) {
	w := newWorld(t)
	tun := w.client.openTUN(tunName)
	// A resolver on this host, as systemd-resolved: it asks the router.
	var stub *net.UDPConn
	w.client.in(func() (err error) {
		stub, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 53), Port: 53})
		return err
	})
	defer stub.Close()
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := stub.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_ = w.client.try(func() error {
				got, err := ask(netip.MustParseAddrPort(at(lanHost, 53)), nil)
				_, _ = stub.WriteToUDPAddrPort([]byte("stub: "+string(b[:n])+" "+got), from)
				return err
			})
		}
	}()
	tn := tunnel()
	tn.AllowLAN = true
	w.up(tn)
	inside := reply(t, tun)
	from := w.flush(endpoint)
	for to, set := range map[string]func(int) error{
		at(publicHost, 53): nil, at(public6, 53): nil, at(lanHost, 53): nil, at(lan6, 53): nil,
		at("10.66.0.1", 53): nil, at("fd66::1", 53): nil, at("192.0.2.99", 53): onSource(192, 168, 7, 2),
	} {
		start := inside.len()
		w.client.in(func() error {
			got, err := ask(netip.MustParseAddrPort(to), set)
			if err == nil && got != canary { // the exit's answer, from whom it was asked
				err = fmt.Errorf("%q", got)
			}
			if err != nil {
				return fmt.Errorf("question to %s: %w", to, err)
			}
			return nil
		})
		inside.wait(start, "question to "+to, resolverAsked(tn))
	}
	// By TCP too.
	for _, to := range []string{at(publicHost, 53), at(lanHost, 53), at(lan6, 53)} {
		start := inside.len()
		w.client.in(func() error { return syn(to) })
		inside.wait(start, "TCP question to "+to, func(p packet) bool { return p.proto == unix.IPPROTO_TCP && resolverAsked(tn)(p) })
	}
	w.client.in(func() error {
		got, err := ask(netip.MustParseAddrPort(net.JoinHostPort("127.0.0.53", "53")), nil)
		if err == nil && got != "stub: "+canary+" "+canary {
			err = fmt.Errorf("%q", got)
		}
		return err
	})
	// Of a family without a resolver, and by the router's TLS: no answer and no leak.
	tn.DNS = tn.DNS[:1]
	w.up(tn)
	w.client.in(func() error {
		_ = udp(at(lan6, 53), nil)
		_ = syn(at(lanHost, 853))
		return syn(at(lanHost, 80)) // which AllowLAN lets through
	})
	w.cable.wait(from, "TCP to the router", toward4(at(lanHost, 80)))
	if found := w.cable.leaks(from, w.flush(endpoint), func(p packet) bool { return outer(endpoint)(p) || p.dst.Port() == 80 }); len(found) > 0 {
		t.Errorf("leaks: %q", found)
	}
}

// resolverAsked is a question to the exit's resolver from the tunnel's address.
func resolverAsked(tn Tunnel) func(packet) bool {
	return func(p packet) bool {
		return p.dst.Port() == 53 && (p.dst.Addr() == tn.DNS[0] && p.src.Addr() == tn.Addrs[0].Addr() ||
			p.dst.Addr() == tn.DNS[1] && p.src.Addr() == tn.Addrs[1].Addr())
	}
}

func TestNC2_AConnectionFromBeforeIsNotFollowed(t *testing.T) {
	w := newWorld(t)
	w.client.openTUN(tunName)
	// Something makes the kernel follow connections, and one to the router's resolver
	// is known before the tunnel is up.
	other := tunnel()
	other.Name, other.KillSwitch, other.DNS = "lo", false, nil
	w.client.in(func() error {
		b, err := open("elsewhere")
		if err != nil {
			return err
		}
		b.renew()
		b.base("nat", hook{nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest, false})
		return b.commit()
	})
	var c net.Conn
	w.client.in(func() (err error) {
		if c, err = dialUDP(at(lanHost, 53), nil); err == nil {
			_, err = c.Write([]byte(canary))
		}
		return err
	})
	defer c.Close()
	w.cable.wait(0, "question before", toward4(at(lanHost, 53)))
	tn := tunnel()
	tn.AllowLAN = true
	w.up(tn)
	from := w.flush(endpoint)
	w.client.in(func() error { _, _ = c.Write([]byte(canary)); return nil })
	if found := w.cable.leaks(from, w.flush(endpoint), outer(endpoint)); len(found) > 0 {
		t.Errorf("leaks: %q", found)
	}
}

// kernelState is all that this room could have touched.
func kernelState() (all []string, err error) {
	for _, f := range families() {
		rules, e := netlink.RuleList(f)
		for _, r := range rules {
			all = append(all, fmt.Sprint(f, r.Priority, r))
		}
		routes, e2 := netlink.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			if r.LinkIndex > 0 && r.Table != 255 && r.Protocol != unix.RTPROT_KERNEL {
				all = append(all, r.String())
			}
		}
		err = errors.Join(err, e, e2)
	}
	links, e := netlink.LinkList()
	for _, l := range links {
		addrs, e := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				all = append(all, a.String())
			}
		}
		err = errors.Join(err, e)
	}
	conn, e2 := nftables.New()
	err = errors.Join(err, e, e2)
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTables()
	for _, t := range tables {
		all = append(all, t.Name)
	}
	for _, key := range []string{"net/ipv4/conf/all/src_valid_mark", forward4, forward6, "net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/eth0/forwarding"} {
		value, _ := readSysctl(key)
		all = append(all, key+" "+value)
	}
	return all, err
}

func (s *space) state() (all []string) {
	s.t.Helper()
	s.in(func() (err error) { all, err = kernelState(); return err })
	return all
}

func TestNC3_DownTakesAllBack(t *testing.T) {
	w := newWorld(t)
	tun := w.client.openTUN(tunName)
	before := w.client.state()
	tn := tunnel()
	tn.AllowLAN, tn.Exclude = true, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/48")}
	w.up(tn)
	if reflect.DeepEqual(w.client.state(), before) {
		t.Fatal("nothing was set")
	}
	w.client.in(func() error { return Down(tunName) })
	if after := w.client.state(); !slices.Equal(after, before) {
		t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	// When the interface is gone, and when somebody flushed the firewall.
	w.up(tn)
	tun.Close()
	w.client.in(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.FlushRuleset()
		return errors.Join(conn.Flush(), writeSysctl("net/ipv4/conf/all/src_valid_mark", "0"), Down(tunName))
	})
	w.client.openTUN(tunName)
	if after := w.client.state(); !slices.Equal(after, before) {
		t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	for what, f := range map[string]func() error{
		"down":      func() error { return Down(tunName) },
		"endpoints": func() error { return SetEndpoints(tunName, nil) },
		"stop":      func() error { return Stop(tunName) },
		"up":        func() error { tn := tunnel(); tn.Name = "none0"; return Up(tn) },
	} {
		w.client.in(func() error {
			if err := f(); !errors.Is(err, top.ErrNotFound) {
				return fmt.Errorf("%s of nothing: %v", what, err)
			}
			return nil
		})
	}
	if after := w.client.state(); !slices.Equal(after, before) {
		t.Errorf("refusals changed something:\n%s", strings.Join(after, "\n"))
	}
}

func TestNC3_WithoutRightsNothingIsSet(t *testing.T) {
	w := newWorld(t)
	w.client.openTUN(tunName)
	before := w.client.state()
	w.client.in(func() error {
		// Of this thread alone, which ends here: capabilities go with the user.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			return errno
		}
		for what, f := range map[string]func() error{
			"up": func() error { return Up(tunnel()) }, "left": func() error { _, err := Left(); return err },
		} {
			if err := f(); !errors.Is(err, top.ErrDenied) || !strings.Contains(err.Error(), "--socks") {
				return fmt.Errorf("%s: %v", what, err)
			}
		}
		return nil
	})
	if after := w.client.state(); !slices.Equal(after, before) {
		t.Errorf("set without rights:\n%s", strings.Join(after, "\n"))
	}
}

func TestNC3_WhatMakesNoSenseIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Tunnel){
		"no name":         func(t *Tunnel) { t.Name = "" },
		"a path":          func(t *Tunnel) { t.Name = "../../x" },
		"dots":            func(t *Tunnel) { t.Name = ".." },
		"all":             func(t *Tunnel) { t.Name = "all" },
		"long name":       func(t *Tunnel) { t.Name = strings.Repeat("a", 16) },
		"no address":      func(t *Tunnel) { t.Addrs = nil },
		"a zero address":  func(t *Tunnel) { t.Addrs = []netip.Prefix{{}} },
		"no mark":         func(t *Tunnel) { t.Mark = 0 },
		"small MTU":       func(t *Tunnel) { t.MTU = 100 },
		"no endpoint":     func(t *Tunnel) { t.Endpoints = []netip.AddrPort{{}} },
		"no resolver":     func(t *Tunnel) { t.DNS = []netip.Addr{{}} },
		"itself resolves": func(t *Tunnel) { t.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
		"mapped":          func(t *Tunnel) { t.Exclude = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")} },
		"in and out": func(t *Tunnel) {
			t.Include, t.Exclude = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		},
	} {
		tn := tunnel()
		change(&tn)
		if err := Up(tn); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "a/b", "..", "all"} {
		if a, b := Down(name), Stop(name); !errors.Is(a, top.ErrInvalid) || !errors.Is(b, top.ErrInvalid) {
			t.Errorf("%q: %v, %v", name, a, b)
		}
	}
}

func TestNC4_UpAgainChangesWhatDiffers(t *testing.T) {
	w := newWorld(t)
	w.client.openTUN(tunName)
	w.up(tunnel())
	var since time.Time
	w.client.in(func() error {
		states, err := Left()
		if err == nil && (len(states) != 1 || !states[0].Alive || time.Since(states[0].Since) > time.Hour) {
			err = fmt.Errorf("left: %+v", states)
		} else if err == nil {
			since = states[0].Since
		}
		return err
	})
	first := w.client.state()
	w.up(tunnel())
	if again := w.client.state(); !slices.Equal(first, again) {
		t.Errorf("first\n%s\nagain\n%s", strings.Join(first, "\n"), strings.Join(again, "\n"))
	}
	tn := tunnel()
	tn.Mark, tn.AllowLAN, tn.KillSwitch, tn.MTU = mark+1, true, false, 1280
	tn.Include = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	w.up(tn)
	w.client.in(func() error {
		states, err := Left()
		if err != nil || len(states) != 1 || states[0].KillSwitch || states[0].Mark != mark+1 || !states[0].Since.Equal(since) {
			err = fmt.Errorf("left: %+v, %v", states, err)
		}
		return err
	})
	w.up(tunnel())
	if again := w.client.state(); !slices.Equal(first, again) {
		t.Errorf("first\n%s\nagain\n%s", strings.Join(first, "\n"), strings.Join(again, "\n"))
	}
	// Two tunnels do not share their numbers: one of the same is refused.
	w.client.in(func() error {
		for i := range 100000 {
			tn := tunnel()
			if tn.Name = fmt.Sprint("x", i); slot(tn.Name) != slot(tunName) {
				continue
			}
			tun, err := openTUN(tn.Name)
			if err != nil {
				return err
			}
			defer tun.Close()
			if err := Up(tn); !errors.Is(err, top.ErrBusy) {
				return fmt.Errorf("%s beside %s: %v", tn.Name, tunName, err)
			}
			return nil
		}
		return errors.New("no such name")
	})
}

func TestNC4_SplitTunnels(t *testing.T) {
	w := newWorld(t)
	tun := w.client.openTUN(tunName)
	inside := record(t, tun)
	tn := tunnel()
	tn.Include = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:99::/48")}
	tn.Exclude = []netip.Prefix{netip.MustParsePrefix("198.51.100.128/25")}
	w.up(tn)
	through, around := []string{at(publicHost, 7777), at(public6, 7777)}, []string{at("203.0.113.6", 7777), at("198.51.100.200", 7777), at(lanHost, 7777), at(lan6, 7777)}
	for _, to := range through {
		start := inside.len()
		w.client.in(func() error { return udp(to, nil) })
		inside.wait(start, to, toward4(to))
	}
	for _, to := range around {
		start := w.cable.len()
		w.client.in(func() error { return udp(to, nil) })
		w.cable.wait(start, to, toward4(to))
	}
	tun.Close()
	from := w.flush(endpoint)
	for _, to := range append(through, around...) {
		w.client.in(func() error { _ = udp(to, nil); return nil })
	}
	to := w.flush(endpoint)
	if found := w.cable.leaks(from, to, func(p packet) bool { return outer(endpoint)(p) || slices.Contains(around, p.dst.String()) }); len(found) > 0 {
		t.Errorf("leaks: %q", found)
	}
	for _, a := range around {
		w.cable.wait(from, a, toward4(a))
	}
}
