package scripts

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"top/lib/api"
)

// Tunnels of the binaries between namespaces, with a capture of what passes outside:
// around a whole machine nothing leaves beside the tunnel, of either family, while it
// is up, killed, started again and changes its exit; what is let beside it goes beside
// it, and nothing else; a hop sees its neighbours alone; a stock client has what was
// prepaid, and no more; what was set is taken back.
func TestDenyEveryWayBesideATunnel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can make a namespace; lib/netcfg tests what is set")
		return
	}
	began := time.Now()
	w := newCountry(t)
	for _, phase := range []struct {
		name string
		run  func()
	}{{"a stock client", w.stockClient}, {"a whole machine", w.wholeMachine}, {"a split tunnel", w.splitTunnel}, {"two hops", w.hops}} {
		t.Logf("%s, from %s on", phase.name, time.Since(began).Round(time.Millisecond))
		phase.run()
	}
	t.Logf("all of it in %s", time.Since(began).Round(time.Millisecond))
}

// wholeMachine: start, crash, start again, change of exit.
func (w *country) wholeMachine() {
	t := w.t
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	from := w.lan.len()
	fetch := func() {
		t.Helper()
		w.download(host4, func(int) {})
		for _, host := range []string{host4, host6} {
			w.eventually("the site is asked by an exit", func() bool {
				by, err := w.from(host)
				return err == nil && !at(by)(packet{src: netip.MustParseAddrPort(client4 + ":0"), dst: netip.MustParseAddrPort("[fd07::2]:0")})
			})
		}
	}
	w.up()
	stop := w.storm()
	fetch()
	if all, err := w.lookup(canary + ".example"); err != nil || len(all) != 1 || all[0].String() != host4 {
		t.Errorf("a name: %v, %v", all, err)
	}
	w.kill(w.vpnLock("alice"))
	w.stormed()
	if _, err := w.inClient("down"); err == nil || !strings.Contains(err.Error(), "down --force") {
		t.Errorf("down after a crash: %v", err)
	}
	w.up()

	was := w.hop()
	w.download(host4, func(have int) {
		if have < 1_000_000 || w.hop() != was {
			return
		}
		w.kill(w.vpnLock(was))
		w.eventually("another exit", func() bool { now := w.hop(); return now != "" && now != was })
	})
	now := w.hop()
	fetch()
	stop()
	w.counts()
	for name, want := range map[string]string{w.tun: "endpoint=" + map[string]string{"exit1": exitAt, "exit2": otherAt6}[now] + "\n", w.exitTUN[now]: "endpoint="} {
		out := w.uapi(name, "get=1")
		for _, want := range []string{"public_key=", "allowed_ip=", "listen_port=", want} {
			if !strings.Contains(out, want) {
				t.Errorf("wg does not see %q of %s:\n%s", want, name, out)
			}
		}
		for _, not := range []string{"last_handshake_time_sec=0\n", "rx_bytes=0\n", "tx_bytes=0\n"} {
			if strings.HasSuffix(out, not) || strings.Contains(out, "\n"+not) {
				t.Errorf("wg sees %q of %s:\n%s", not, name, out)
			}
		}
	}
	w.nothing("beside the tunnel", w.lan, from, beside([]string{exitAt, otherAt6}))
	w.nothing("of what is inside", w.lan, from, has(canary))
	if w.wan.len() == 0 || w.wan2.len() == 0 {
		t.Error("an exit sent nothing: the test looks in the wrong place")
	}
	for _, c := range []*capture{w.wan, w.wan2} {
		if found, _ := c.since(0, has(canary)); len(found) == 0 {
			t.Error("an exit let nothing out: the test looks in the wrong place")
		}
	}
	if now, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(now) != string(resolv) {
		t.Errorf("resolv.conf changed: %v", err)
	}
	if _, err := w.inClient("down"); err != nil {
		t.Fatal(err)
	}
	w.free("after down")
	w.serveExit(was, map[string]string{"exit1": exitAt, "exit2": otherAt6}[was])
}

// nothing says that a capture has no packet of a kind.
func (w *country) nothing(what string, c *capture, from int, is func(packet) bool) {
	w.t.Helper()
	if found, _ := c.since(from, is); len(found) > 0 {
		w.t.Errorf("%d packets %s, the first %s", len(found), what, found[:min(3, len(found))])
	}
}

// free waits until the canary leaves the client in the clear.
func (w *country) free(when string) {
	w.t.Helper()
	from := w.lan.len()
	defer w.storm()()
	w.passes("packets leave "+when, w.lan, from, has(canary))
}

// passes waits until a packet of a kind is seen.
func (w *country) passes(what string, c *capture, from int, is func(packet) bool) {
	w.t.Helper()
	w.eventually(what, func() bool {
		found, next := c.since(from, is)
		from = next
		return len(found) > 0
	})
}

// splitTunnel lets the local network and two prefixes go beside the tunnel, until the
// client is killed and the switch is lifted.
func (w *country) splitTunnel() {
	t := w.t
	out := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:77::/48")}
	w.up("--exclude", out[0].String(), "--exclude", out[1].String(), "--allow-lan")
	from := w.lan.len()
	stop := w.storm()
	for host, want := range map[string]string{away4: client4, away6: "fd07::2"} {
		if by, err := w.from(host); by != want {
			t.Errorf("%s, excluded, is asked by %q, %v", host, by, err)
		}
	}
	for _, host := range []string{host4, host6} {
		w.eventually("the site is asked by an exit", func() bool {
			by, err := w.from(host)
			if by == client4 || by == "fd07::2" {
				t.Fatalf("%s is asked beside the tunnel", host)
			}
			return err == nil
		})
	}
	// What asks for a page by the tunnel goes by it, excluded or not, and where it is not,
	// not at all.
	asked := w.lan.len()
	if page, err := w.inClient("get", "http://"+away4+"/", "--timeout", "20s"); err != nil || page != string(w.body) {
		t.Errorf("a page by the tunnel: %d bytes, %v", len(page), err)
	}
	w.nothing("of a page by the tunnel", w.lan, asked, func(p packet) bool { return p.dst.String() == away4+":80" })
	if page, err := w.inSpace(w.guest, "alice", "get", "http://"+host4+"/", "--timeout", "20s"); err == nil || !strings.Contains(err.Error(), "another network namespace") {
		t.Errorf("from another namespace: %d bytes, %v", len(page), err)
	}
	lan := []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fd07::/64"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")}
	open := []string{away4 + ":9", "[" + away6 + "]:9", "192.168.7.1:9", "[fd07::1]:9"}
	for _, to := range open {
		w.passes(to+" beside the tunnel", w.lan, from, func(p packet) bool { return p.in && p.dst.String() == to && has(canary)(p) })
	}
	stop()
	w.nothing("beside the tunnel that were not let", w.lan, from, beside([]string{exitAt, otherAt6}, append(lan, out...)...))
	w.kill(w.vpnLock("alice"))
	from = w.lan.len()
	stop = w.storm()
	w.stormed()
	stop()
	w.nothing("beside a dead tunnel", w.lan, from, beside(nil, append(lan, out...)...))
	if _, err := w.inClient("down", "--force"); err != nil {
		t.Fatal(err)
	}
	w.free("after down --force")
}

// hops: what passes at the entry never shows what is asked and whom, and what passes at
// the exit never who asks.
func (w *country) hops() {
	t := w.t
	w.up("--hops", "2", "--cap", "0.1")
	s, err := w.vpn("alice").Status(t.Context())
	if err != nil || len(s.Hops) != 2 || s.Hops[0].Name != "exit1" || s.Hops[1].Name != "exit2" || s.Shows == "" {
		t.Fatalf("%v: %v", s, err)
	}
	entry, last := w.exit["exit1"].capture(w.exitTUN["exit1"]), w.exit["exit2"].capture(w.exitTUN["exit2"])
	wires := map[string]*capture{"client's": w.lan, "entry's, outside": w.exit["exit1"].capture("eth0"), "entry's, inside": entry}
	beyond := map[string]*capture{"exit's, outside": w.exit["exit2"].capture("eth0"), "exit's, inside": last}
	late := func(p packet) bool { return at(host4)(p) || at(host6)(p) } // of connections that an exit's end broke
	from := w.lan.len()
	for _, host := range []string{far4, far6} {
		by, err := w.from(host)
		if want := map[string]string{far4: "203.0.113.20", far6: "2a01:db8:2::5"}[host]; by != want {
			t.Errorf("%s is asked by %q, want %q, %v", host, by, want, err)
		}
	}
	if _, err := w.lookup(canary + ".example"); err != nil {
		t.Error(err)
	}
	w.download(far4, func(int) {})
	for name, c := range wires {
		first := 0
		if c == w.lan {
			first = from
		}
		for _, host := range []string{far4, far6} {
			w.nothing(name+", of or for the site", c, first, at(host))
		}
		w.nothing(name+", with the canary", c, first, func(p packet) bool { return has(canary)(p) && !late(p) })
	}
	w.nothing("in the entry that are not for the next hop", entry, 0, func(p packet) bool {
		return p.proto != unix.IPPROTO_ICMPV6 && !late(p) && p.src.String() != otherAt6 && p.dst.String() != otherAt6
	})
	w.nothing("beside the entry", w.lan, from, beside([]string{exitAt}))
	for name, c := range beyond {
		for _, who := range []string{client4, "fd07::2"} {
			w.nothing(name+", of or for the client", c, 0, at(who))
		}
		if found, _ := c.since(0, has(canary)); len(found) == 0 {
			t.Errorf("the canary is not seen in the %s: the test looks in the wrong place", name)
		}
	}
	if entry.len() == 0 {
		t.Error("the entry carried nothing: the test looks in the wrong place")
	}
	if s.Hops[0].Payer == s.Hops[1].Payer || slices.ContainsFunc(s.Hops, func(h api.VPNHop) bool {
		return h.Payer.String() == strings.TrimSpace(w.run("alice", "top-wallet", "address"))
	}) {
		t.Errorf("payers %s and %s", s.Hops[0].Payer, s.Hops[1].Payer)
	}
	if _, err := w.inClient("down"); err != nil {
		t.Error(err)
	}
}

// stockClient: a stock wireguard-go goes out with the file that top-vpn config wrote,
// until what was prepaid is used up; lent more it goes on. Every bill marks it.
func (w *country) stockClient() {
	t := w.t
	stock := filepath.Join(t.TempDir(), "wireguard-go")
	build := exec.Command("go", "build", "-o", stock, "golang.zx2c4.com/wireguard")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "peer.conf")
	out, err := w.inSpace(w.guest, "bob", "config", "--exit", w.via["exit1"], "--prepay", "0.00003", "--cap", "0.001", "-o", file, "--json") // 30 units: 2 MB
	if err != nil {
		t.Fatal(err)
	}
	var peer api.VPNPeer
	if err := json.Unmarshal([]byte(out), &peer); err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) string { return between(string(conf), name+" = ", "\n") }
	hexed := func(text string) string {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatalf("%q: %v", conf, err)
		}
		return hex.EncodeToString(b)
	}
	name := fmt.Sprintf("st%d", os.Getpid())
	cmd := exec.Command(stock, "-f", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.guest.in(cmd.Start)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.Remove("/var/run/wireguard/" + name + ".sock")
	})
	w.eventually("the stock device answers", func() bool {
		c, err := net.Dial("unix", "/var/run/wireguard/"+name+".sock")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	w.uapi(name, "set=1\nprivate_key="+hexed(value("PrivateKey"))+"\npublic_key="+hexed(value("PublicKey"))+"\nendpoint="+value("Endpoint")+"\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0")
	w.guest.link(name, nil, strings.Split(value("Address"), ", ")...)
	w.guest.in(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP(host4).To4(), Mask: net.CIDRMask(32, 32)}})
	})
	line := w.web(w.guest)
	r, err := line.Get("http://" + host4 + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if by := r.Header.Get("Asked-From"); by != "203.0.113.5" {
		t.Errorf("the site is asked by %s", by)
	}
	type ended struct {
		n   int
		err error
	}
	done := make(chan ended, 1)
	go func() {
		b, err := io.ReadAll(r.Body)
		done <- ended{len(b), err}
	}()
	meter := func() (m api.VPNMeter) {
		w.vpn("exit1").Meters(t.Context(), 0, func(n api.VPNMeter) error {
			if n.Unverified {
				m = n
			}
			return nil
		})
		return m
	}
	w.eventually("the exit stops at what was prepaid", func() bool { m := meter(); return m.State != "serving" && m.Units >= 29 })
	if m := meter(); m.Units > 30+4 || len(done) > 0 {
		t.Errorf("%s units of 30, %d pages", m.Units, len(done))
	}
	lend := w.command("bob", "top-vpn", "lend", "--exit", w.via["exit1"], "--key", peer.Key, "--channel", peer.Channel.String(), "--step", "0.0001", "--quiet")
	lend.Stderr, lend.SysProcAttr = os.Stderr, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.guest.in(lend.Start)
	defer func() {
		lend.Process.Kill()
		lend.Wait()
	}()
	select {
	case e := <-done:
		if e.err != nil || e.n != len(w.body) {
			t.Errorf("%d of %d bytes: %v", e.n, len(w.body), e.err)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("what is lent carries nothing: %s", meter())
	}
	w.eventually("the bill marks it", func() bool {
		out, err := w.try("bob", "top-wallet", "bill", "--json")
		return err == nil && strings.Contains(out, `"type":"bill-row"`) && strings.Contains(out, `"unverified":`)
	})
	w.eventually("and so does the exit's receipt", func() bool {
		out, err := w.try("exit1", "top-prove", "receipts", "--json")
		return err == nil && strings.Contains(out, `"unverified":`)
	})
	if out := w.uapi(w.exitTUN["exit1"], "get=1"); !strings.Contains(out, "public_key="+hexed(peer.Key)) {
		t.Errorf("wg sees no such peer at the exit: %s", out)
	}
}

// moves gives the client another address, in the middle of what it does.
func (w *country) moves(from, to string) {
	w.t.Helper()
	w.client.in(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		add, err := netlink.ParseIPNet(to)
		if err != nil {
			return err
		}
		del, err := netlink.ParseIPNet(from)
		if err != nil {
			return err
		}
		if err := netlink.AddrDel(l, &netlink.Addr{IPNet: del}); err != nil { // with a second one of its network, where the kernel promotes none
			return err
		}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: add}); err != nil {
			return err
		}
		// The kernel dropped the route by the old address; a DHCP client sets it again.
		gw := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Gw: net.ParseIP("192.168.7.1")}
		return netlink.RouteReplace(gw)
	})
}

// A machine whose address changes while pages come goes on in the same session, and
// nothing leaves beside the tunnel meanwhile.
func TestFaultTheAddressChangesUnderATunnel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can make a namespace; lib/vpn has a client that roams")
		return
	}
	w := newCountry(t)
	w.upVia(w.via["exit1"])
	first, err := w.vpn("alice").Status(t.Context())
	if err != nil || len(first.Hops) != 1 {
		t.Fatalf("%+v: %v", first, err)
	}
	from := w.lan.len()
	stop := w.storm()
	done := make(chan error, 1)
	go func() {
		out, err := w.inClient("get", "http://"+host4+"/", "--timeout", "50s")
		if err == nil && out != string(w.body) {
			err = fmt.Errorf("%d of %d bytes", len(out), len(w.body))
		}
		done <- err
	}()
	w.eventually("some of it is there", func() (some bool) {
		err := w.vpn("alice").Meters(t.Context(), 0, func(m api.VPNMeter) error { some = some || m.Down > 1_000_000; return nil })
		return err == nil && some
	})
	w.moves("192.168.7.2/24", "192.168.7.77/24")
	if err := <-done; err != nil {
		t.Errorf("the page that came meanwhile: %v", err)
	}
	w.stormed()
	stop()
	w.nothing("beside the tunnel", w.lan, from, beside([]string{exitAt}))
	w.nothing("of what is inside", w.lan, from, has(canary))
	now, err := w.vpn("alice").Status(t.Context())
	if err != nil || len(now.Hops) != 1 || now.Hops[0].Session != first.Hops[0].Session {
		t.Errorf("another session: %+v, %v", now, err)
	}
}

// door lets the client's namespace reach a node of the chain, which runs outside, at an
// address that is the Internet's.
func (w *country) door(node string) {
	var l net.Listener
	w.router.in(func() (err error) { l, err = net.Listen("tcp", chainAt); return err })
	var open sync.WaitGroup
	w.t.Cleanup(func() { l.Close() })
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer c.Close()
				to, err := net.Dial("tcp", node)
				if err != nil {
					return
				}
				defer to.Close()
				go func() { io.Copy(to, c); to.Close() }()
				io.Copy(c, to)
			})
		}
	})
}

const chainAt = host4 + ":4001"

// A client with a chain daemon of its own, and no channel, comes up around the whole
// machine: that daemon's peers are spared, and nothing else. Told to spare none it cannot,
// and says what it lacks.
func TestDenyAllButTheChainBesideATunnel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can make a namespace; lib/netcfg tests what is set")
		return
	}
	w := newCountry(t)
	s, err := w.chain("val0").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	others := 0 // what a full node was told to reach
	if err := w.chain("val0").Dials(t.Context(), func(d api.Dial) error { others++; return nil }); err != nil || others == 0 {
		t.Errorf("a validator reaches %d others: %v", others, err)
	}
	var mesh string
	for _, a := range s.Addresses {
		if strings.HasPrefix(a, "/ip4/127.0.0.1/tcp/") {
			mesh = a
		}
	}
	w.door(net.JoinHostPort("127.0.0.1", between(mesh, "/tcp/", "/")))
	at := netip.MustParseAddrPort(chainAt)
	peer := fmt.Sprintf("/ip4/%s/tcp/%d", at.Addr(), at.Port()) + mesh[strings.Index(mesh, "/p2p/"):]
	home := filepath.Join(w.dir, "own")
	w.run("alice", "top-chain", "init", "--home", home, "--light", "--genesis", string(w.home("val0").Path("chain", "genesis.json")), "--peer", peer)
	daemon := exec.Command(filepath.Join(w.bin, "top-chain"), "serve", "--home", home, "--quiet")
	daemon.Stderr = os.Stderr
	w.client.in(daemon.Start)
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	sock := filepath.Join(home, "run", "chain.sock")
	w.eventually("the chain is seen", func() bool {
		_, err := w.inClient("exits", "--no-look", "--chain-sock", sock)
		return err == nil
	})
	up := w.serveIn(w.client, "alice", "up", "--tun", w.tun, "--via", w.via["exit1"], "--chain-sock", sock)
	from := w.lan.len()
	stop := w.storm()
	v, err := w.vpn("alice").Status(t.Context())
	if err != nil || v.State != "up" || len(v.Spared) != 1 || v.Spared[0] != chainAt {
		t.Errorf("%+v: %v", v, err)
	}
	if _, err := w.inClient("exits", "--no-look", "--chain-sock", sock); err != nil {
		t.Errorf("with the tunnel up: %v", err)
	}
	w.stormed()
	stop()
	spared := 0
	found, _ := w.lan.since(from, beside([]string{exitAt}))
	for _, p := range found {
		if p.proto == unix.IPPROTO_TCP && p.dst.String() == chainAt {
			spared++
			continue
		}
		t.Errorf("beside the tunnel: %s", p)
	}
	if spared == 0 {
		t.Error("no packet to the chain: the test looks in the wrong place")
	}
	w.nothing("of what is inside", w.lan, from, has(canary))
	if _, err := w.inClient("down"); err != nil {
		t.Fatal(err)
	}
	up.Wait()
	none := w.command("alice", "top-vpn", "up", "--tun", w.tun, "--via", w.via["exit1"], "--chain-sock", sock, "--spare-none", "--timeout", "20s")
	w.client.in(none.Start)
	w.eventually("it says what it lacks", func() bool {
		v, err := w.vpn("alice").Status(t.Context())
		return err == nil && len(v.Spared) == 0 && v.State != "up" && v.Problem != ""
	})
	none.Process.Kill()
	none.Wait()
	if _, err := w.inClient("down", "--force"); err != nil {
		t.Fatal(err)
	}
}
