package scripts

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"top/lib/api"
)

// A space is a network namespace of the test's own: it has no name and goes with it.
type space struct {
	t  *testing.T
	fd int
}

func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with this
		done <- f()
	}()
	return <-done
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		s.fd = fd
		return err
	})
	if err != nil {
		t.Fatalf("a network namespace: %v (these tests need root)", err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// in runs f in the namespace.
func (s *space) in(f func() error) {
	s.t.Helper()
	err := onThread(func() error {
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// link brings an interface up with addresses, and a way for the rest through it.
func (s *space) link(name string, via []string, addrs ...string) {
	s.t.Helper()
	s.in(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			n, err := netlink.ParseIPNet(a)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD}); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		for _, v := range via {
			gw := netip.MustParseAddr(v)
			all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if gw.Is6() {
				all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			dst := &net.IPNet{IP: all.Addr().AsSlice(), Mask: net.CIDRMask(0, all.Addr().BitLen())}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Gw: gw.AsSlice()}); err != nil {
				return fmt.Errorf("via %s: %w", v, err)
			}
		}
		return nil
	})
}

// cable joins two namespaces.
func cable(a *space, nameA string, b *space, nameB string) {
	a.t.Helper()
	a.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(b.fd)})
	})
}

// capture keeps every frame that comes in on an interface.
type capture struct {
	mu     sync.Mutex
	frames [][]byte
}

func (s *space) capture(name string) *capture {
	s.t.Helper()
	var fd int
	s.in(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all)); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index})
	})
	c, f, done := &capture{}, os.NewFile(uintptr(fd), "capture"), make(chan struct{})
	raw, err := f.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		_ = raw.Read(func(fd uintptr) bool {
			for {
				k, from, err := unix.Recvfrom(int(fd), b, 0)
				if err == unix.EAGAIN {
					return false
				}
				if err != nil {
					return true
				}
				if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
					c.mu.Lock()
					c.frames = append(c.frames, bytes.Clone(b[:k]))
					c.mu.Unlock()
				}
			}
		})
	}()
	s.t.Cleanup(func() { f.Close(); <-done })
	return c
}

func (c *capture) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.frames)
}

// has says whether a frame from an index on has a text.
func (c *capture) has(from int, text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames[from:] {
		if bytes.Contains(f, []byte(text)) {
			return true
		}
	}
	return false
}

// beside describes the frames from an index on that are neither for the exit nor what
// neighbours on a cable say to each other.
func (c *capture) beside(from int, exit netip.AddrPort) (found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames[from:] {
		p := f[14:]
		switch kind := binary.BigEndian.Uint16(f[12:]); {
		case kind == unix.ETH_P_ARP:
			continue
		case kind == unix.ETH_P_IP && p[9] == unix.IPPROTO_UDP:
			to, _ := netip.AddrFromSlice(p[16:20])
			if netip.AddrPortFrom(to, binary.BigEndian.Uint16(p[int(p[0]&15)*4+2:])) == exit {
				continue
			}
		case kind == unix.ETH_P_IPV6 && !bytes.Contains(p, []byte(canary)):
			next, rest := p[6], p[40:]
			if next == 0 {
				next, rest = rest[0], rest[8:]
			}
			if next == unix.IPPROTO_ICMPV6 && rest[0] >= 130 && rest[0] <= 143 {
				continue // neighbours and listeners
			}
		}
		found = append(found, fmt.Sprintf("%.80x", f))
	}
	return found
}

const (
	canary = "canary-in-the-clear"
	host4  = "93.184.216.34"
	exitAt = "203.0.113.5:51820"
)

// A country is a client, a router that is the Internet, and an exit, each in a
// namespace, with the chain and the wallets outside.
type country struct {
	*localnet
	client, router, exit *space
	lan, wan             *capture
	via                  string
	tun, exitTUN         string // names of this test's own: sockets of wg(8) know no namespaces
	sent                 atomic.Int64
}

func newCountry(t *testing.T) *country {
	w := &country{localnet: start(t), client: newSpace(t), router: newSpace(t), exit: newSpace(t)}
	w.tun, w.exitTUN = fmt.Sprintf("tc%d", os.Getpid()), fmt.Sprintf("tx%d", os.Getpid())
	cable(w.client, "eth0", w.router, "lan0")
	cable(w.exit, "eth0", w.router, "wan0")
	for _, s := range []*space{w.client, w.router, w.exit} {
		s.link("lo", nil)
	}
	w.router.link("lo", nil, host4+"/32", "2606:2800::7/128")
	w.router.link("lan0", nil, "192.168.7.1/24", "fd07::1/64")
	w.router.link("wan0", nil, "203.0.113.1/24")
	w.client.link("eth0", []string{"192.168.7.1", "fd07::1"}, "192.168.7.2/24", "fd07::2/64")
	w.exit.link("eth0", []string{"203.0.113.1"}, "203.0.113.5/24")
	w.router.in(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	w.lan, w.wan = w.router.capture("lan0"), w.router.capture("wan0")
	return w
}

// serveIn starts a daemon of a home in a namespace and waits until it is ready.
func (w *country) serveIn(s *space, who string, args ...string) *exec.Cmd {
	w.t.Helper()
	r, pipe, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	cmd := w.command(who, "top-vpn", append(args, "--ready-fd", "3", "--quiet")...)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{pipe}, os.Stderr
	s.in(cmd.Start)
	pipe.Close()
	w.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	if k, err := r.Read(make([]byte, 1)); k == 0 {
		w.t.Fatalf("top-vpn %v did not get ready: %v", args, err)
	}
	return cmd
}

// serveExit runs the exit with a kernel interface.
func (w *country) serveExit() {
	w.serveIn(w.exit, "exit1", "serve", "--provide", "--listen", exitAt, "--tun", w.exitTUN)
	s, err := w.vpn("exit1").Status(w.t.Context())
	if err != nil || len(s.Addrs) == 0 {
		w.t.Fatalf("%v: %v", s, err)
	}
	w.via = s.Addrs[0] + "&node=" + s.Node.String()
}

func (w *country) up() *exec.Cmd {
	return w.serveIn(w.client, "alice", "up", "--tun", w.tun, "--via", w.via)
}

// inClient runs a command of Alice's where her tunnel is.
func (w *country) inClient(args ...string) (string, error) {
	cmd := w.command("alice", "top-vpn", args...)
	var out, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &stderr
	w.client.in(cmd.Start)
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, stderr.String())
	}
	return out.String(), nil
}

// site serves a page at host4.
func (w *country) site(body []byte) {
	var l net.Listener
	w.router.in(func() (err error) { l, err = net.Listen("tcp", host4+":80"); return err })
	srv := &http.Server{Handler: http.HandlerFunc(func(a http.ResponseWriter, _ *http.Request) { a.Write(body) })}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	w.t.Cleanup(func() { srv.Close(); <-done })
}

// storm sends the canary from the client everywhere, again and again, until stop.
func (w *country) storm() (stop func()) {
	var c4, c6 *net.UDPConn
	w.client.in(func() (err error) {
		if c4, err = net.ListenUDP("udp4", &net.UDPAddr{}); err == nil {
			c6, err = net.ListenUDP("udp6", &net.UDPAddr{})
		}
		return err
	})
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-end:
				return
			}
			for _, to := range []string{host4 + ":9", host4 + ":53", "192.168.7.1:53", "8.8.8.8:443"} {
				c4.WriteToUDPAddrPort([]byte(canary), netip.MustParseAddrPort(to))
			}
			for _, to := range []string{"[2606:2800::7]:53", "[fd07::1]:53", "[2606:2800::7]:443"} {
				c6.WriteToUDPAddrPort([]byte(canary), netip.MustParseAddrPort(to))
			}
			w.sent.Add(1)
		}
	}()
	return func() { close(end); <-done; c4.Close(); c6.Close() }
}

// stormed waits until the canary was sent some times more.
func (w *country) stormed() {
	from := w.sent.Load()
	w.eventually("the canary was sent", func() bool { return w.sent.Load() > from+50 })
}

// counts sends datagrams of a known size and compares what is billed with what the
// kernel counted on the tunnel's interface: within 1 %.
func (w *country) counts() {
	w.t.Helper()
	kernel := func() (n uint64) {
		w.client.in(func() error {
			l, err := netlink.LinkByName(w.tun)
			if err == nil {
				n = l.Attrs().Statistics.RxBytes + l.Attrs().Statistics.TxBytes
			}
			return err
		})
		return n
	}
	billed := func() (n uint64) {
		if err := w.vpn("alice").Meters(w.t.Context(), 0, func(m api.VPNMeter) error { n += uint64(m.Acknowledged); return nil }); err != nil {
			w.t.Fatal(err)
		}
		return n
	}
	b0, k0 := billed(), kernel()
	var c *net.UDPConn
	w.client.in(func() (err error) { c, err = net.ListenUDP("udp4", &net.UDPAddr{}); return err })
	defer c.Close()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 500 {
		<-tick.C
		for range 8 {
			if _, err := c.WriteToUDPAddrPort(make([]byte, 1200), netip.MustParseAddrPort(host4+":9")); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	var b, k int64
	w.eventually("what is billed is what the kernel counted", func() bool {
		b, k = int64(billed()-b0), int64(kernel()-k0)
		return k >= 4000*1228 && max(b-k, k-b) <= k/100
	})
	w.t.Logf("billed %d bytes, the kernel counted %d on the interface", b, k)
}

// uapi asks a WireGuard device over the socket of wg(8).
func (w *country) uapi(name, text string) string {
	w.t.Helper()
	c, err := net.Dial("unix", "/var/run/wireguard/"+name+".sock")
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(text + "\n\n")); err != nil {
		w.t.Fatal(err)
	}
	var all strings.Builder
	for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != ""; {
		all.WriteString(lines.Text() + "\n")
	}
	if !strings.HasSuffix(all.String(), "errno=0\n") {
		w.t.Fatalf("%s: %s", name, all.String())
	}
	return all.String()
}

// A stock wireguard-go goes out through an exit with the file that top-vpn config
// wrote, for as long as the prepaid channel lasts; such units are marked.
func TestDenyAStockClientMoreThanItsChannel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can make a namespace")
		return
	}
	w := newCountry(t)
	page := bytes.Repeat([]byte("x"), 1_000_000)
	w.site(page)
	stock := filepath.Join(t.TempDir(), "wireguard-go")
	build := exec.Command("go", "build", "-o", stock, "golang.zx2c4.com/wireguard")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.kill(w.vpnLock("exit1"))
	w.serveExit()
	conf, err := w.inClient("config", "--exit", w.via, "--prepay", "0.00003") // 30 units: a page and a half
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) string { return between(conf, name+" = ", "\n") }
	hexed := func(text string) string {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatalf("%q: %v", conf, err)
		}
		return hex.EncodeToString(b)
	}
	name := fmt.Sprintf("st%d", os.Getpid())
	cmd := exec.Command(stock, "-f", name)
	w.client.in(cmd.Start)
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
	w.uapi(name, "set=1\nprivate_key="+hexed(value("PrivateKey"))+"\npublic_key="+hexed(value("PublicKey"))+"\nendpoint="+value("Endpoint")+"\nallowed_ip=0.0.0.0/0")
	w.client.link(name, nil, strings.Split(value("Address"), ", ")[0])
	w.client.in(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP(host4).To4(), Mask: net.CIDRMask(32, 32)}})
	})
	get := func() (k int, err error) {
		line := &http.Transport{DialContext: func(context.Context, string, string) (c net.Conn, err error) {
			w.client.in(func() error { c, err = net.DialTimeout("tcp", host4+":80", 5*time.Second); return nil })
			return c, err
		}}
		defer line.CloseIdleConnections()
		r, err := (&http.Client{Transport: line, Timeout: 5 * time.Second}).Get("http://" + host4 + "/")
		if err != nil {
			return 0, err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return len(b), err
	}
	if k, err := get(); err != nil || k != len(page) {
		t.Fatalf("%d bytes: %v", k, err)
	}
	w.eventually("the exit counts it, unverified", func() (seen bool) {
		err := w.vpn("exit1").Meters(t.Context(), 0, func(m api.VPNMeter) error {
			seen = seen || m.Unverified && int(m.Units) >= len(page)>>16
			return nil
		})
		return err == nil && seen
	})
	k := 0
	if k, err = get(); err == nil || k >= len(page) {
		t.Errorf("%d bytes beyond what was prepaid: %v", k, err)
	}
	if out := w.uapi(w.exitTUN, "get=1"); !strings.Contains(out, "public_key=") {
		t.Errorf("wg sees no peer at the exit: %s", out)
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
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: add}); err != nil {
			return err
		}
		del, err := netlink.ParseIPNet(from)
		if err != nil {
			return err
		}
		if err := netlink.AddrDel(l, &netlink.Addr{IPNet: del}); err != nil {
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
	page := bytes.Repeat([]byte("x"), 20_000_000)
	w.site(page)
	w.kill(w.vpnLock("exit1"))
	w.serveExit()
	w.up()
	first, err := w.vpn("alice").Status(t.Context())
	if err != nil || len(first.Hops) != 1 {
		t.Fatalf("%+v: %v", first, err)
	}
	from := w.lan.len()
	stop := w.storm()
	done := make(chan error, 1)
	go func() {
		out, err := w.inClient("get", "http://"+host4+"/", "--timeout", "50s")
		if err == nil && out != string(page) {
			err = fmt.Errorf("%d of %d bytes", len(out), len(page))
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
	if found := w.lan.beside(from, netip.MustParseAddrPort(exitAt)); len(found) > 0 || w.lan.has(from, canary) {
		t.Errorf("%d frames beside the tunnel, the first %s", len(found), found[:min(3, len(found))])
	}
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
	w.kill(w.vpnLock("exit1"))
	w.serveExit()
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
	up := w.serveIn(w.client, "alice", "up", "--tun", w.tun, "--via", w.via, "--chain-sock", sock)
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
	for _, f := range w.lan.beside(from, netip.MustParseAddrPort(exitAt)) {
		// TCP to the chain's port at its address, in hex.
		if strings.Contains(f, fmt.Sprintf("%x", netip.MustParseAddr(host4).AsSlice())) && strings.Contains(f, "0fa1") {
			spared++
			continue
		}
		t.Errorf("beside the tunnel: %s", f)
	}
	if spared == 0 || w.lan.has(from, canary) {
		t.Errorf("%d frames to the chain; the canary left: %v", spared, w.lan.has(from, canary))
	}
	if _, err := w.inClient("down"); err != nil {
		t.Fatal(err)
	}
	up.Wait()
	none := w.command("alice", "top-vpn", "up", "--tun", w.tun, "--via", w.via, "--chain-sock", sock, "--spare-none", "--timeout", "20s")
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

// Around a whole machine nothing leaves beside the tunnel, of either family, while it
// is up, killed, started again and without its exit; what was set is taken back, and
// who looks sees no byte of what is inside.
func TestDenyEveryWayBesideATunnel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can make a namespace; lib/netcfg tests what is set")
		return
	}
	w := newCountry(t)
	page := bytes.Repeat([]byte(canary+"\n"), 500_000)
	w.site(page)
	w.kill(w.vpnLock("exit1"))
	w.serveExit()
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	fetch := func() {
		t.Helper()
		w.eventually("the page came", func() bool {
			out, err := w.inClient("get", "http://"+host4+"/", "--timeout", "15s")
			if err != nil {
				t.Log(err)
			}
			return err == nil && out == string(page)
		})
	}
	w.up()
	from := w.lan.len()
	stop := w.storm()
	fetch()
	w.kill(w.vpnLock("alice"))
	w.stormed()
	if _, err := w.inClient("down"); err == nil || !strings.Contains(err.Error(), "down --force") {
		t.Errorf("down after a crash: %v", err)
	}
	w.up()
	fetch()
	w.kill(w.vpnLock("exit1"))
	w.stormed()
	w.serveExit()
	fetch()
	stop()
	w.counts()
	if out := w.uapi(w.tun, "get=1"); !strings.Contains(out, "endpoint="+exitAt) || strings.Contains(out, "last_handshake_time_sec=0\n") {
		t.Errorf("wg sees %s", out)
	}
	if found := w.lan.beside(from, netip.MustParseAddrPort(exitAt)); len(found) > 0 || w.lan.has(from, canary) {
		t.Errorf("%d frames beside the tunnel, the first %s", len(found), found[:min(3, len(found))])
	}
	if !w.wan.has(0, canary) {
		t.Error("the exit sent nothing: the test looks in the wrong place")
	}
	if now, err := os.ReadFile("/etc/resolv.conf"); err != nil || !bytes.Equal(now, resolv) {
		t.Errorf("resolv.conf changed: %v", err)
	}

	free := func(when string) {
		t.Helper()
		from := w.lan.len()
		defer w.storm()()
		w.eventually("packets leave "+when, func() bool { return w.lan.has(from, canary) })
	}
	if _, err := w.inClient("down"); err != nil {
		t.Fatal(err)
	}
	free("after down")
	w.up()
	w.kill(w.vpnLock("alice"))
	if _, err := w.inClient("down", "--force"); err != nil {
		t.Fatal(err)
	}
	free("after down --force")
}
