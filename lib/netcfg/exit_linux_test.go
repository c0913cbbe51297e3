package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"top/lib/policy"
	"top/lib/top"
)

// An exitWorld is an exit whose clients the test plays at the TUN, a cable to the
// outside, and one to the exit's own network.
type exitWorld struct {
	t                  *testing.T
	exit, outside, own *space
	tun                *os.File
	inside             *capture // what clients get
	cable, lan         *capture
	e                  Exit
	sent               uint16 // flows so far: each is another
}

const (
	exitName = "xt0"
	client4  = "10.66.0.2"
	client6  = "fd66::2"
)

func parsePolicy(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newExit(t *testing.T, text string) *exitWorld {
	t.Helper()
	w := &exitWorld{t: t, exit: newSpace(t), outside: newSpace(t), own: newSpace(t)}
	join(w.exit, "out0", w.outside, "in0")
	join(w.exit, "own0", w.own, "own0")
	w.exit.addr("out0", "203.0.113.1/30", "2001:db8:1::1/126")
	w.exit.addr("own0", "192.0.2.1/24", "192.168.5.1/24", "2001:db8:2::1/64")
	w.own.addr("own0", "192.0.2.9/24", "192.168.5.9/24", "2001:db8:2::9/64")
	w.own.route("own0", "0.0.0.0/0", "192.0.2.1")
	w.outside.addr("in0", "203.0.113.2/30", "2001:db8:1::2/126")
	w.outside.addr("lo", publicHost+"/32", public6+"/128")
	w.outside.route("in0", "0.0.0.0/0", "203.0.113.1") // the inner addresses too
	w.outside.route("in0", "::/0", "2001:db8:1::1")
	w.exit.route("out0", "0.0.0.0/0", "203.0.113.2")
	w.exit.route("out0", "::/0", "2001:db8:1::2")
	// Every refusal is told, however many there are.
	w.exit.in(func() error {
		return errors.Join(writeSysctl("net/ipv4/icmp_ratelimit", "0"), writeSysctl("net/ipv6/icmp/ratelimit", "0"), writeSysctl("net/ipv4/icmp_msgs_per_sec", "100000"))
	})
	w.tun = w.exit.openTUN(exitName)
	w.inside = record(t, w.tun)
	w.cable, w.lan = w.outside.capture("in0"), w.own.capture("own0")
	w.e = Exit{
		Name: exitName, MTU: 1420, Policy: parsePolicy(t, text),
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.66.0.1/24"), netip.MustParsePrefix("fd66::1/64")},
		Inner: []netip.Prefix{netip.MustParsePrefix("10.66.0.0/24"), netip.MustParsePrefix("fd66::/64")},
		Local: []policy.Ports{{Protocol: policy.UDP, First: 53, Last: 53}, {Protocol: policy.TCP, First: 53, Last: 53}},
	}
	return w
}

func (w *exitWorld) serve() {
	w.t.Helper()
	w.exit.in(func() error { return Serve(w.e) })
}

// build makes a packet with its checksums, as a client's would be.
func build(protocol byte, from, to netip.AddrPort, payload []byte) []byte {
	var l4 []byte
	port := func(p uint16) { l4 = binary.BigEndian.AppendUint16(l4, p) }
	sumAt := 6
	switch protocol {
	case unix.IPPROTO_UDP:
		port(from.Port())
		port(to.Port())
		port(uint16(8 + len(payload)))
		port(0)
	case unix.IPPROTO_TCP: // a SYN that offers segments of 9000 bytes
		port(from.Port())
		port(to.Port())
		l4 = append(l4, 0, 0, 0, 1, 0, 0, 0, 0, 6<<4, 2, 16, 0, 0, 0, 0, 0, 2, 4, 9000>>8, 9000&255)
		sumAt, payload = 16, nil
	default:
		kind := byte(8)
		if from.Addr().Is6() {
			kind = 128
		}
		l4 = append(l4, kind, 0, 0, 0, byte(from.Port()>>8), byte(from.Port()), 0, 1)
		sumAt = 2
	}
	l4 = append(l4, payload...)
	pseudo := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, protocol, byte(len(l4)>>8), byte(len(l4)))
	if protocol == unix.IPPROTO_ICMP {
		pseudo = nil
	}
	binary.BigEndian.PutUint16(l4[sumAt:], checksum(append(pseudo, l4...)))
	if from.Addr().Is6() {
		head := []byte{0x60, 0, 0, 0, byte(len(l4) >> 8), byte(len(l4)), protocol, 64}
		return slices.Concat(head, from.Addr().AsSlice(), to.Addr().AsSlice(), l4)
	}
	n := 20 + len(l4)
	head := []byte{0x45, 0, byte(n >> 8), byte(n), 0, 0, 0, 0, 64, protocol, 0, 0}
	head = slices.Concat(head, from.Addr().AsSlice(), to.Addr().AsSlice())
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return append(head, l4...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// A flow is what a client asks for.
type flow struct {
	protocol byte
	to       string
}

func (w *exitWorld) send(f flow) {
	w.t.Helper()
	to := netip.MustParseAddrPort(f.to)
	w.sent++
	from := netip.AddrPortFrom(netip.MustParseAddr(client4), 4000+w.sent)
	if to.Addr().Is6() {
		from = netip.AddrPortFrom(netip.MustParseAddr(client6), 4000+w.sent)
	}
	w.inject(f.protocol, from, to)
}

func (w *exitWorld) inject(protocol byte, from, to netip.AddrPort) {
	w.t.Helper()
	if _, err := w.tun.Write(build(protocol, from, to, []byte(canary))); err != nil {
		w.t.Fatal(err)
	}
}

// settled waits until the exit has handled all that was sent: a packet that is
// served under any policy of these tests comes last.
func (w *exitWorld) settled() int {
	w.t.Helper()
	from, last := w.cable.len(), flow{unix.IPPROTO_TCP, at(publicHost, 443)}
	w.send(last)
	return w.cable.wait(from, "packet that is served", toward4(last.to))
}

// outcome says where a flow got: to the outside, to the exit's network, or nowhere,
// which the client must be told.
func (w *exitWorld) outcome(f flow) string {
	w.t.Helper()
	cable, lan, inside := w.settled(), w.lan.len(), w.inside.len()
	w.send(f)
	end := w.settled()
	// The exit's network has seen as much.
	var marker netip.AddrPort
	w.exit.in(func() error {
		marker = netip.MustParseAddrPort(at("192.0.2.9", 9999))
		return udp(marker.String(), nil)
	})
	lanEnd := w.lan.wait(lan, "packet to the own network", func(p packet) bool { return p.dst == marker })
	to := netip.MustParseAddrPort(f.to)
	mine := func(p packet) bool {
		return p.dst.Addr() == to.Addr() && p.proto == f.protocol && (p.dst.Port() == to.Port() || to.Port() == 0)
	}
	got := "refused"
	for _, c := range []struct {
		*capture
		from, to int
		name     string
	}{{w.cable, cable, end, "served"}, {w.lan, lan, lanEnd, "own network"}} {
		c.mu.Lock()
		for _, b := range c.frames[c.from:c.to] {
			p, ok := decode(b[14:])
			if !ok || !mine(p) {
				continue
			}
			if got = c.name; p.src.Addr() != netip.MustParseAddr("203.0.113.1") && p.src.Addr() != netip.MustParseAddr("2001:db8:1::1") {
				got += " from " + p.src.Addr().String()
			}
		}
		c.mu.Unlock()
	}
	if got == "refused" {
		w.inside.wait(inside, "word of refusal for "+f.to, func(p packet) bool {
			return p.proto == unix.IPPROTO_ICMP && p.dst.Port() == 3 || p.proto == unix.IPPROTO_ICMPV6 && p.dst.Port() == 1 ||
				p.proto == unix.IPPROTO_TCP && f.protocol == unix.IPPROTO_TCP
		})
	}
	return got
}

func TestNC5_ClientsReachTheOutsideAlone(t *testing.T) {
	w := newExit(t, "class full\nrefuse 198.51.100.66\n")
	w.e.Inner = append(w.e.Inner, netip.MustParsePrefix("198.51.100.160/28")) // clients with public addresses
	w.serve()
	icmp := func(to string) flow {
		a := netip.MustParseAddr(to)
		return flow{map[bool]byte{true: unix.IPPROTO_ICMP, false: unix.IPPROTO_ICMPV6}[a.Is4()], netip.AddrPortFrom(a, 0).String()}
	}
	tcp := func(host string, port int) flow { return flow{unix.IPPROTO_TCP, at(host, port)} }
	udp := func(host string, port int) flow { return flow{unix.IPPROTO_UDP, at(host, port)} }
	for f, want := range map[flow]string{
		tcp(publicHost, 80): "served", tcp(public6, 80): "served", udp(publicHost, 9): "served", udp(public6, 9): "served",
		icmp(publicHost): "served", icmp(public6): "served", tcp("203.0.113.2", 80): "refused", // the outside's router is on our network
		tcp(publicHost, 25): "refused", tcp(public6, 25): "refused", udp(publicHost, 25): "served", tcp(publicHost, 465): "served",
		udp("198.51.100.66", 9): "refused", icmp("198.51.100.66"): "refused",
		// The exit's own networks and addresses.
		tcp("192.0.2.9", 80): "refused", udp("192.0.2.9", 80): "refused", icmp("192.0.2.9"): "refused", udp("2001:db8:2::9", 80): "refused",
		tcp("192.168.5.9", 80): "refused", icmp("2001:db8:2::9"): "refused",
		tcp("192.0.2.1", 22): "refused", tcp("203.0.113.1", 22): "refused", udp("2001:db8:1::1", 22): "refused", icmp("192.0.2.1"): "refused",
		tcp("10.66.0.1", 22): "refused", udp("fd66::1", 54): "refused",
		// Other clients.
		udp("10.66.0.3", 80): "refused", tcp("10.66.0.3", 80): "refused", udp("fd66::3", 80): "refused", icmp("fd66::3"): "refused",
		udp("198.51.100.163", 80): "refused", icmp("198.51.100.163"): "refused",
		// What is special.
		udp("10.1.1.1", 80): "refused", udp("172.16.0.1", 80): "refused", udp("192.168.77.1", 80): "refused", udp("100.64.1.1", 80): "refused",
		udp("169.254.169.254", 80): "refused", tcp("169.254.169.254", 80): "refused", udp("198.18.0.1", 80): "refused",
		udp("fd00:ec2::254", 80): "refused", udp("fd01::1", 80): "refused", udp("64:ff9b::a00:1", 80): "refused", udp("2002:a00:1::1", 80): "refused",
		udp("64:ff9b::c000:209", 80): "refused", // 192.0.2.9 through NAT64
	} {
		if got := w.outcome(f); got != want {
			t.Errorf("protocol %d to %s: %s, want %s", f.protocol, f.to, got, want)
		}
	}
	// What has no right to an answer: forged sources, other protocols, multicast.
	start, lan := w.settled(), w.lan.len()
	to := netip.MustParseAddrPort(at(publicHost, 7001))
	for _, from := range []string{"10.67.0.2", "192.168.5.9", "203.0.113.1", "198.51.100.9"} {
		w.inject(unix.IPPROTO_UDP, netip.AddrPortFrom(netip.MustParseAddr(from), 1), to)
	}
	w.inject(unix.IPPROTO_UDP, netip.MustParseAddrPort("[2001:db8:1::1]:1"), netip.MustParseAddrPort(at(public6, 7001)))
	w.send(flow{47, netip.AddrPortFrom(to.Addr(), 0).String()})
	for _, multicast := range []string{at("224.0.0.251", 5353), at("255.255.255.255", 67), at("ff02::fb", 5353), at("ff0e::1", 80), at("127.0.0.1", 80), at("::1", 80)} {
		w.send(flow{unix.IPPROTO_UDP, multicast})
	}
	if found := w.cable.leaks(start, w.settled(), toward4(at(publicHost, 443))); len(found) > 0 {
		t.Errorf("outside: %q", found)
	}
	if found := w.lan.leaks(lan, w.lan.len(), func(p packet) bool { return p.dst.Port() == 9999 }); len(found) > 0 {
		t.Errorf("in the own network: %q", found)
	}
}

// Clients of one network of a family are compared with it, those of several looked up: what
// has an address beside theirs is forged either way, whether it is for the outside or for
// the exit itself.
func TestNC5_NoAddressBesideTheClients(t *testing.T) {
	for _, more := range [][]netip.Prefix{nil, {netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("fd99::/64")}} {
		w := newExit(t, "class full\n")
		w.e.Inner = append(w.e.Inner, more...)
		w.serve()
		inner := []string{"10.66.0.0", "10.66.0.255", "10.66.0.2", "fd66::2", "fd66::ffff:ffff:ffff:ffff"}
		if more != nil {
			inner = append(inner, "10.99.0.255", "fd99::ffff:0:0:0")
		}
		start := w.settled()
		inject := func(protocol byte, from string, port uint16, to4, to6 string) {
			a, to := netip.MustParseAddr(from), to4
			if a.Is6() {
				to = to6
			}
			w.inject(protocol, netip.AddrPortFrom(a, port), netip.MustParseAddrPort(to))
		}
		for _, from := range []string{"10.66.1.0", "10.65.255.255", "10.66.1.2", "11.66.0.2", "0.0.0.1", "fd66:0:0:1::", "fd65:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fd67::2", "fd66:0:0:1::2"} {
			inject(unix.IPPROTO_UDP, from, 1, at(publicHost, 7001), at(public6, 7001))
			inject(unix.IPPROTO_UDP, from, 1, at("10.66.0.1", 9), at("fd66::1", 9))
		}
		if found := w.cable.leaks(start, w.settled(), toward4(at(publicHost, 443))); len(found) > 0 {
			t.Errorf("forged, or told that it is: %q", found)
		}
		for _, from := range inner {
			start := w.cable.len()
			inject(unix.IPPROTO_UDP, from, 4000, at(publicHost, 7002), at(public6, 7002))
			w.cable.wait(start, "packet of "+from, func(p packet) bool { return p.dst.Port() == 7002 })
		}
	}
}

// What is a prefix is found to be one, and nothing else is.
func TestSpansThatArePrefixes(t *testing.T) {
	for _, s := range []string{"0.0.0.0/0", "10.0.0.0/8", "10.66.0.0/24", "128.0.0.0/1", "255.255.255.255/32", "1.2.3.4/32", "224.0.0.0/3", "::/0", "fd66::/64", "ff00::/8", "::1/128"} {
		p := netip.MustParsePrefix(s)
		if got, ok := merge([]netip.Prefix{p}, p.Addr().Is4())[0].prefix(); got != p || !ok {
			t.Errorf("%s: %s, %v", s, got, ok)
		}
	}
	for _, s := range [][2]string{{"10.0.0.0/24", "10.0.1.0/25"}, {"10.0.1.0/24", "10.0.2.0/24"}, {"1.2.3.4/32", "1.2.3.5/32"}, {"255.255.255.254/31", "255.255.255.252/31"}, {"::1/128", "::2/128"}} {
		two := []netip.Prefix{netip.MustParsePrefix(s[0]), netip.MustParsePrefix(s[1])}
		all := merge(two, two[0].Addr().Is4())
		if len(all) != 1 {
			t.Fatalf("%v: %v", s, all)
		}
		got, ok := all[0].prefix()
		if whole := two[0].Bits() == two[1].Bits() && netip.PrefixFrom(two[0].Addr(), two[0].Bits()-1).Contains(two[1].Addr()); ok != whole {
			t.Errorf("%v: %s, %v", s, got, ok)
		}
	}
}

func TestNC5_AnswersComeBackAndNothingElse(t *testing.T) {
	w := newExit(t, "class full\n")
	w.serve()
	for _, host := range []string{publicHost, public6} {
		var far *net.UDPConn
		here := netip.AddrPortFrom(netip.MustParseAddr(host), 7002)
		w.outside.in(func() (err error) { far, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(here)); return err })
		defer far.Close()
		go answer(far, "pong")
		start := w.inside.len()
		w.send(flow{unix.IPPROTO_UDP, here.String()})
		w.inside.wait(start, "answer", func(p packet) bool {
			return p.src == here && p.dst.Port() == 4000+w.sent && string(p.payload) == "pong" && (p.dst.Addr().String() == client4 || p.dst.Addr().String() == client6)
		})
	}
	// Nobody asked for these: from the outside, and from the exit's own network.
	start := w.inside.len()
	for _, s := range []*space{w.outside, w.own} {
		s.in(func() error {
			for _, to := range []string{at(client4, 4000), at(client6, 4000), at("10.66.0.9", 80)} {
				_ = udp(to, nil)
				_ = syn(to)
				_ = echo(netip.MustParseAddrPort(to).Addr().String())
			}
			return nil
		})
	}
	// An answer that comes after them shows that they are not there.
	w.send(flow{unix.IPPROTO_UDP, at(publicHost, 7002)})
	end := w.inside.wait(start, "answer", func(p packet) bool { return string(p.payload) == "pong" })
	if found := w.inside.leaks(start, end, func(p packet) bool { return string(p.payload) == "pong" }); len(found) > 0 {
		t.Errorf("reaches a client: %q", found)
	}
	// The exit's own service, and an echo.
	var dns *net.UDPConn
	w.exit.in(func() (err error) {
		dns, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP("10.66.0.1"), Port: 53})
		return err
	})
	defer dns.Close()
	go answer(dns, "answer")
	start = w.inside.len()
	w.send(flow{unix.IPPROTO_UDP, at("10.66.0.1", 53)})
	w.inside.wait(start, "the resolver's answer", func(p packet) bool { return string(p.payload) == "answer" })
	w.send(flow{unix.IPPROTO_ICMP, at("10.66.0.1", 0)})
	w.inside.wait(start, "the exit's echo", func(p packet) bool { return p.proto == unix.IPPROTO_ICMP && p.dst.Port() == 0 })
}

func TestNC5_TheHostForwardsForExitsAlone(t *testing.T) {
	w := newExit(t, "class full\n")
	before := w.cable.len()
	w.serve()
	w.own.in(func() error { return errors.Join(udp(at(publicHost, 7003), nil)) })
	w.outside.in(func() error { return udp(at("192.0.2.9", 7003), nil) })
	w.settled()
	if found := w.cable.leaks(before, w.settled(), func(p packet) bool { return p.dst.Port() == 443 || p.src.Port() == 443 }); len(found) > 0 {
		t.Errorf("forwarded to the outside: %q", found)
	}
	w.exit.in(func() error { return udp(at("192.0.2.9", 9999), nil) })
	end := w.lan.wait(0, "packet to the own network", toward4(at("192.0.2.9", 9999)))
	if found := w.lan.leaks(0, end, toward4(at("192.0.2.9", 9999))); len(found) > 0 {
		t.Errorf("forwarded to the own network: %q", found)
	}
	// A host that was a router before goes on as one.
	w = newExit(t, "class full\n")
	w.exit.in(func() error { return writeSysctl(forward4, "1") })
	w.serve()
	w.own.in(func() error { return udp(at(publicHost, 7003), nil) })
	w.cable.wait(0, "forwarded packet", toward4(at(publicHost, 7003)))
}

func TestNC5_OwnNetworksAreKept(t *testing.T) {
	w := newExit(t, "class full\n")
	w.serve()
	f := flow{unix.IPPROTO_UDP, at("198.51.100.77", 80)}
	if got := w.outcome(f); got != "served" {
		t.Fatalf("before: %s", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.exit.try(func() error { return Keep(ctx, exitName, w.e.Policy) }) }()
	w.exit.addr("own0", "198.51.100.65/28")
	for deadline := time.Now().Add(20 * time.Second); ; {
		end := w.settled()
		w.send(f)
		if found := w.cable.leaks(end, w.settled(), toward4(at(publicHost, 443))); len(found) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a new network of the exit's is served")
		}
	}
	if got := w.outcome(f); got != "refused" {
		t.Errorf("after: %s", got)
	}
	if err := w.e.Policy.Allow(policy.UDP, netip.MustParseAddrPort(f.to), time.Now()); !errors.Is(err, top.ErrDenied) {
		t.Errorf("the policy was not told: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("keep: %v", err)
	}
	w.exit.in(func() error {
		if err := Keep(t.Context(), "other0", w.e.Policy); !errors.Is(err, top.ErrNotFound) {
			return fmt.Errorf("keep of nothing: %v", err)
		}
		return nil
	})
}

func TestNC6_APolicyIsNarrowedWhileItServes(t *testing.T) {
	w := newExit(t, "class category\ncategory web ping\nrefuse 198.51.100.8\n")
	w.serve()
	check := func(when string, want map[flow]string) {
		t.Helper()
		for f, want := range want {
			if got := w.outcome(f); got != want {
				t.Errorf("%s: protocol %d to %s: %s, want %s", when, f.protocol, f.to, got, want)
			}
		}
	}
	check("category", map[flow]string{
		{unix.IPPROTO_TCP, at(publicHost, 80)}: "served", {unix.IPPROTO_UDP, at(publicHost, 443)}: "served", {unix.IPPROTO_TCP, at(public6, 8443)}: "served",
		{unix.IPPROTO_ICMP, at(publicHost, 0)}: "served", {unix.IPPROTO_ICMPV6, at(public6, 0)}: "served",
		{unix.IPPROTO_TCP, at(publicHost, 22)}: "refused", {unix.IPPROTO_UDP, at(publicHost, 80)}: "refused", {unix.IPPROTO_UDP, at(public6, 5000)}: "refused",
		{unix.IPPROTO_TCP, at("198.51.100.8", 80)}: "refused", {unix.IPPROTO_TCP, at("10.0.0.8", 80)}: "refused", {unix.IPPROTO_TCP, at("192.0.2.9", 80)}: "refused",
	})
	var many strings.Builder
	for i := range 15000 { // more than one set holds, and more rules than an answer each fits a usual buffer
		fmt.Fprintf(&many, "20.%d.%d.0/25:1-1000\n", i/200, i%200)
		if i < 1000 {
			fmt.Fprintf(&many, "2.2.2.2:tcp/%d\n", 10000+i)
		}
	}
	p := parsePolicy(t, "class allowlist\n"+publicHost+":443,udp/53\nexample.org:80\n2001:db8:99::/64\n"+many.String())
	w.exit.in(func() error { return Refresh(exitName, p) })
	check("allowlist", map[flow]string{
		{unix.IPPROTO_TCP, at(publicHost, 443)}: "served", {unix.IPPROTO_UDP, at(publicHost, 53)}: "served", {unix.IPPROTO_UDP, at(public6, 5000)}: "served",
		{unix.IPPROTO_ICMPV6, at(public6, 0)}:  "served",
		{unix.IPPROTO_TCP, at(publicHost, 80)}: "refused", {unix.IPPROTO_TCP, at("198.51.100.9", 80)}: "refused", {unix.IPPROTO_ICMP, at(publicHost, 0)}: "refused",
		{unix.IPPROTO_TCP, at("20.7.99.1", 1000)}: "served", {unix.IPPROTO_TCP, at("20.7.99.1", 1001)}: "refused", {unix.IPPROTO_TCP, at("20.7.99.129", 1000)}: "refused",
		{unix.IPPROTO_UDP, at("20.0.0.1", 1)}:    "served",
		{unix.IPPROTO_TCP, at("2.2.2.2", 10999)}: "served", {unix.IPPROTO_TCP, at("2.2.2.2", 11000)}: "refused",
	})
	p.Learn("www.example.org", []netip.Addr{netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("192.0.2.9")}, time.Now(), time.Now().Add(time.Hour))
	w.exit.in(func() error { return Refresh(exitName, p) })
	check("learned", map[flow]string{
		{unix.IPPROTO_TCP, at("198.51.100.9", 80)}: "served", {unix.IPPROTO_TCP, at("198.51.100.9", 81)}: "refused", {unix.IPPROTO_TCP, at("192.0.2.9", 80)}: "refused",
	})
	w.exit.in(func() error {
		if err := Refresh("other0", p); !errors.Is(err, top.ErrNotFound) {
			return fmt.Errorf("refresh of nothing: %v", err)
		}
		return nil
	})
}

func TestNC6_SegmentsFitTheTunnel(t *testing.T) {
	w := newExit(t, "class full\n")
	w.serve()
	for _, to := range []string{at(publicHost, 7004), at(public6, 7004)} {
		start := w.cable.len()
		w.send(flow{unix.IPPROTO_TCP, to})
		end := w.cable.wait(start, "SYN", toward4(to))
		w.cable.mu.Lock()
		frame := w.cable.frames[end-1]
		w.cable.mu.Unlock()
		want := map[bool]uint16{true: 1420 - 40, false: 1420 - 60}[netip.MustParseAddrPort(to).Addr().Is4()]
		if got := binary.BigEndian.Uint16(frame[len(frame)-2:]); got != want {
			t.Errorf("%s: segments of %d, want %d", to, got, want)
		}
		// So do those of the answer, which has the outside's own size.
		here := netip.AddrPortFrom(netip.MustParseAddrPort(to).Addr(), 7005)
		w.outside.in(func() (err error) {
			far, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(here))
			if err == nil {
				t.Cleanup(func() { far.Close() })
			}
			return err
		})
		start = w.inside.len()
		w.send(flow{unix.IPPROTO_TCP, here.String()})
		end = w.inside.wait(start, "SYN and ACK", func(p packet) bool { return p.src == here })
		w.inside.mu.Lock()
		frame = w.inside.frames[end-1]
		w.inside.mu.Unlock()
		head := 14 + 20
		if here.Addr().Is6() {
			head = 14 + 40
		}
		if got := binary.BigEndian.Uint16(frame[head+22:]); frame[head+20] != 2 || got != want { // the first option
			t.Errorf("%s: an answer offers segments of %d, want %d", to, got, want)
		}
	}
}

func TestNC6_LoopbackIsServedForTestsAlone(t *testing.T) {
	for text, want := range map[string]string{"class full\nloopback\n": "answered", "class full\n": "refused"} {
		w := newExit(t, text)
		w.serve()
		var near *net.UDPConn
		w.exit.in(func() (err error) {
			near, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			return err
		})
		defer near.Close()
		go answer(near, "near")
		start := w.inside.len()
		w.send(flow{unix.IPPROTO_UDP, near.LocalAddr().String()})
		if want == "answered" {
			w.inside.wait(start, "answer from loopback", func(p packet) bool { return string(p.payload) == "near" })
			continue
		}
		w.settled()
		w.send(flow{unix.IPPROTO_UDP, at("10.66.0.1", 54)}) // is refused, and says so
		end := w.inside.wait(start, "a refusal", func(p packet) bool { return p.proto == unix.IPPROTO_ICMP })
		if found := w.inside.leaks(start, end, func(p packet) bool { return p.proto != unix.IPPROTO_UDP }); len(found) > 0 {
			t.Errorf("loopback answers: %q", found)
		}
	}
}

func TestNC3_StopTakesAllBack(t *testing.T) {
	w := newExit(t, "class full\nloopback\n")
	// A host that learns its way out from a router, and one more exit beside.
	w.exit.in(func() error { return writeSysctl("net/ipv6/conf/out0/accept_ra", "1") })
	other := w.e
	other.Name, other.Policy = "xt1", parsePolicy(t, "class full\n")
	other.Addrs = []netip.Prefix{netip.MustParsePrefix("10.77.0.1/32"), netip.MustParsePrefix("fd77::1/128")}
	other.Inner = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::/64")}
	w.exit.openTUN("xt1")
	before := w.exit.state()
	w.serve()
	w.serve()
	w.exit.in(func() error {
		ra, err := readSysctl("net/ipv6/conf/out0/accept_ra")
		f4, err2 := readSysctl(forward4)
		f6, err3 := readSysctl(forward6)
		if ra+f4+f6 != "211" {
			return fmt.Errorf("accept_ra %s, forwarding %s and %s", ra, f4, f6)
		}
		return errors.Join(err, err2, err3, Serve(other))
	})
	w.exit.in(func() error { return Stop(exitName) })
	w.exit.in(func() error {
		if f4, err := readSysctl(forward4); err != nil || f4 != "1" {
			return fmt.Errorf("the other exit does not forward any more: %q, %v", f4, err)
		}
		states, err := Left()
		if err == nil && (len(states) != 1 || states[0].Name != "xt1" || !states[0].Exit || !states[0].Alive) {
			err = fmt.Errorf("left: %+v", states)
		}
		return errors.Join(err, Stop("xt1"))
	})
	if after := w.exit.state(); !slices.Equal(after, before) {
		t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	// When the interface is gone, as after a kill.
	w.serve()
	w.tun.Close()
	w.exit.in(func() error { return waitGone(exitName) })
	w.exit.in(func() error { return Stop(exitName) })
	w.exit.openTUN(exitName)
	if after := w.exit.state(); !slices.Equal(after, before) {
		t.Errorf("before\n%s\nafter the interface\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	for name, change := range map[string]func(*Exit){
		"no name":         func(e *Exit) { e.Name = "" },
		"no policy":       func(e *Exit) { e.Policy = nil },
		"no clients":      func(e *Exit) { e.Inner = nil },
		"no address":      func(e *Exit) { e.Addrs = nil },
		"everybody":       func(e *Exit) { e.Inner = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} },
		"size":            func(e *Exit) { e.MTU = 70000 },
		"service by none": func(e *Exit) { e.Local = []policy.Ports{{First: 1, Last: 2}} },
	} {
		e := w.e
		change(&e)
		if err := Serve(e); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// waitGone waits until an interface that was closed is not there any more.
func waitGone(name string) error {
	gone, done := make(chan netlink.LinkUpdate), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(gone, done); err != nil {
		return err
	}
	for {
		if _, err := linkOf(name); errors.Is(err, top.ErrNotFound) {
			return nil
		}
		if _, more := <-gone; !more {
			return errors.New("no news of " + name)
		}
	}
}
