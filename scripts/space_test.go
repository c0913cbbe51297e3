package scripts

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"top/lib/api"
)

// A space is a network namespace of the test's own: it has no name and goes with it.
type space struct {
	t  *testing.T
	fd int
}

// onThread runs f on a thread whose namespace it may change. The thread goes back to its
// own and lives: who ends with the thread that started him would end with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(own)
		err = f()
		if back := unix.Setns(own, unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
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

// A packet is what a capture saw of one.
type packet struct {
	in       bool // into the interface that was looked at, from outside
	arp      bool
	proto    byte
	src, dst netip.AddrPort // port 0 where there is none
	bytes    []byte         // from the header of IP on
}

// neighbours says that it is what neighbours on a cable say to each other, and no more.
func (p packet) neighbours() bool {
	at := len(p.bytes) - len(p.body())
	return p.arp || p.proto == unix.IPPROTO_ICMPV6 && len(p.bytes) > at && p.bytes[at] >= 130 && p.bytes[at] <= 143 && !bytes.Contains(p.bytes, []byte(canary))
}

func (p packet) String() string {
	return fmt.Sprintf("%d %s > %s %.60x", p.proto, p.src, p.dst, p.bytes)
}

// body is what follows the header of IP, and of IPv6 its options hop by hop.
func (p packet) body() []byte {
	b := p.bytes
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return b[int(b[0]&15)*4:]
	case len(b) >= 48 && b[0]>>4 == 6 && b[6] == 0:
		return b[40+8+int(b[41])*8:]
	case len(b) >= 40 && b[0]>>4 == 6:
		return b[40:]
	}
	return nil
}

// parsePacket reads what a kernel that is to be trusted captured.
func parsePacket(kind uint16, in bool, b []byte) packet {
	p := packet{in: in, arp: kind == unix.ETH_P_ARP, bytes: b}
	var src, dst netip.Addr
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && kind == unix.ETH_P_IP:
		p.proto = b[9]
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 48 && b[0]>>4 == 6 && kind == unix.ETH_P_IPV6:
		if p.proto = b[6]; p.proto == 0 {
			p.proto = b[40]
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return p
	}
	var ports [4]byte
	if p.proto == unix.IPPROTO_UDP || p.proto == unix.IPPROTO_TCP {
		copy(ports[:], p.body())
	}
	p.src, p.dst = netip.AddrPortFrom(src, binary.BigEndian.Uint16(ports[:])), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(ports[2:]))
	return p
}

// capture keeps every packet that passes an interface.
type capture struct {
	mu  sync.Mutex
	all []packet
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
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all)); err != nil {
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
					return true // the interface is gone
				}
				if ll, ok := from.(*unix.SockaddrLinklayer); ok {
					kind := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, ll.Protocol))
					c.mu.Lock()
					c.all = append(c.all, parsePacket(kind, ll.Pkttype != unix.PACKET_OUTGOING, bytes.Clone(b[:min(k, 2048)])))
					c.mu.Unlock()
				}
			}
		})
	}()
	s.t.Cleanup(func() { f.Close(); <-done })
	return c
}

// since are the packets from an index on that fulfil a condition, and the next index.
func (c *capture) since(from int, is func(packet) bool) (found []packet, next int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.all[from:] {
		if is(p) {
			found = append(found, p)
		}
	}
	return found, len(c.all)
}

func (c *capture) len() int {
	_, n := c.since(0, func(packet) bool { return false })
	return n
}

func has(text string) func(packet) bool {
	return func(p packet) bool { return bytes.Contains(p.bytes, []byte(text)) }
}

// at is for packets of or for an address.
func at(a string) func(packet) bool {
	addr := netip.MustParseAddr(a)
	return func(p packet) bool { return p.src.Addr() == addr || p.dst.Addr() == addr }
}

// beside is for packets that a client sent neither to an endpoint nor to its
// neighbours on the cable, nor where some may go.
func beside(ends []string, may ...netip.Prefix) func(packet) bool {
	return func(p packet) bool {
		if !p.in || p.neighbours() || p.proto == unix.IPPROTO_UDP && slices.Contains(ends, p.dst.String()) {
			return false
		}
		return p.dst.Port() == 53 || !slices.ContainsFunc(may, func(m netip.Prefix) bool { return m.Contains(p.dst.Addr()) })
	}
}

const (
	canary   = "canary-in-the-clear"
	host4    = "93.184.216.34" // the site
	host6    = "2606:2800::7"
	away4    = "198.51.100.7" // the site, too: what is excluded
	away6    = "2001:db8:77::7"
	far4     = "93.184.216.35" // and this, that no exit was asked for before the hops
	far6     = "2606:2800::8"
	client4  = "192.168.7.2"
	exitAt   = "203.0.113.5:51820"
	otherAt  = "203.0.113.20:51820"
	otherAt6 = "[2a01:db8:2::5]:51820"
)

// A country is a client, a guest, a router that is the Internet, and two exits, each in
// a namespace, with the chain and the wallets outside.
type country struct {
	*localnet
	client, guest, router *space
	exit                  map[string]*space // by home
	lan, wan, wan2        *capture          // where client and exits end, at the router
	tun                   string
	exitTUN               map[string]string // of this test's own: sockets of wg(8) know no namespaces
	via                   map[string]string
	line                  *http.Client // of a program at the client
	body                  []byte       // of the site
	sent                  atomic.Int64 // canaries
}

func newCountry(t *testing.T) *country {
	w := &country{localnet: start(t), client: newSpace(t), guest: newSpace(t), router: newSpace(t), via: map[string]string{}}
	w.exit = map[string]*space{"exit1": newSpace(t), "exit2": newSpace(t)}
	own := fmt.Sprintf("%d-%d", os.Getpid(), countries.Add(1))
	w.tun, w.exitTUN = "tc"+own, map[string]string{"exit1": "tx" + own, "exit2": "ty" + own}
	t.Cleanup(func() { // who is killed leaves his socket
		for _, name := range []string{w.tun, w.exitTUN["exit1"], w.exitTUN["exit2"]} {
			os.Remove("/var/run/wireguard/" + name + ".sock")
		}
	})
	cable(w.client, "eth0", w.router, "lan0")
	cable(w.guest, "eth0", w.router, "lan1")
	cable(w.exit["exit1"], "eth0", w.router, "wan1")
	cable(w.exit["exit2"], "eth0", w.router, "wan2")
	for _, s := range []*space{w.client, w.guest, w.router, w.exit["exit1"], w.exit["exit2"]} {
		s.link("lo", nil)
	}
	w.router.link("lo", nil, host4+"/32", host6+"/128", away4+"/32", away6+"/128", far4+"/32", far6+"/128")
	w.router.link("lan0", nil, "192.168.7.1/24", "fd07::1/64")
	w.router.link("lan1", nil, "192.168.8.1/24")
	w.router.link("wan1", nil, "203.0.113.1/28", "2a01:db8:1::1/64")
	w.router.link("wan2", nil, "203.0.113.17/28", "2a01:db8:2::1/64")
	w.client.link("eth0", []string{"192.168.7.1", "fd07::1"}, client4+"/24", "fd07::2/64")
	w.guest.link("eth0", []string{"192.168.8.1"}, "192.168.8.2/24")
	w.exit["exit1"].link("eth0", []string{"203.0.113.1", "2a01:db8:1::1"}, "203.0.113.5/28", "2a01:db8:1::5/64")
	w.exit["exit2"].link("eth0", []string{"203.0.113.17", "2a01:db8:2::1"}, "203.0.113.20/28", "2a01:db8:2::5/64")
	w.router.in(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
	w.lan, w.wan, w.wan2 = w.router.capture("lan0"), w.router.capture("wan1"), w.router.capture("wan2")
	w.line = w.web(w.client)
	w.site(bytes.Repeat([]byte(canary+"\n"), 600_000))
	w.names()
	for who, listen := range map[string]string{"exit1": exitAt, "exit2": otherAt6} {
		w.kill(w.vpnLock(who))
		w.serveExit(who, listen)
	}
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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

// serveExit runs an exit with a kernel interface.
func (w *country) serveExit(who, listen string) {
	w.t.Helper()
	w.serveIn(w.exit[who], who, "serve", "--provide", "--listen", listen, "--tun", w.exitTUN[who], "--resolver", host4+":53")
	s, err := w.vpn(who).Status(w.t.Context())
	if err != nil || len(s.Addrs) == 0 {
		w.t.Fatalf("%v: %v", s, err)
	}
	w.via[who] = s.Addrs[0] + "&node=" + s.Node.String()
}

// up runs the client's tunnel by both exits, unless args say otherwise.
func (w *country) up(args ...string) {
	w.t.Helper()
	w.upVia(w.via["exit1"]+","+w.via["exit2"], args...)
}

func (w *country) upVia(via string, args ...string) {
	w.t.Helper()
	w.serveIn(w.client, "alice", append([]string{"up", "--tun", w.tun, "--via", via}, args...)...)
}

var countries atomic.Int64 // so far

// inSpace runs a command of somebody's in a namespace.
func (w *country) inSpace(s *space, who string, args ...string) (string, error) {
	cmd := w.command(who, "top-vpn", args...)
	var out, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &stderr
	s.in(cmd.Start)
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, stderr.String())
	}
	return out.String(), nil
}

// inClient runs a command of Alice's where her tunnel is.
func (w *country) inClient(args ...string) (string, error) {
	return w.inSpace(w.client, "alice", args...)
}

// web is a program in a namespace that fetches pages.
func (w *country) web(s *space) *http.Client {
	line := &http.Transport{DialContext: func(_ context.Context, network, to string) (c net.Conn, err error) {
		s.in(func() error { c, err = net.DialTimeout(network, to, 5*time.Second); return nil })
		return c, err
	}, DisableKeepAlives: true, ResponseHeaderTimeout: 5 * time.Second}
	return &http.Client{Transport: line}
}

// site serves a page at the hosts' addresses, and says from where it was asked.
func (w *country) site(body []byte) {
	w.body = body
	for _, a := range []string{host4, host6, away4, away6, far4, far6} {
		var l net.Listener
		w.router.in(func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(a, "80")); return err })
		srv := &http.Server{Handler: http.HandlerFunc(func(a http.ResponseWriter, q *http.Request) {
			from, _, _ := net.SplitHostPort(q.RemoteAddr)
			a.Header().Set("Asked-From", from)
			http.ServeContent(a, q, "page.txt", time.Time{}, bytes.NewReader(body))
		})}
		done := make(chan struct{})
		go func() { defer close(done); srv.Serve(l) }()
		w.t.Cleanup(func() { srv.Close(); <-done })
	}
}

// names answers every question for an address with the site's.
func (w *country) names() {
	var c net.PacketConn
	w.router.in(func() (err error) { c, err = net.ListenPacket("udp", host4+":53"); return err })
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, Body: &dnsmessage.AResource{A: netip.MustParseAddr(host4).As4()}}}
			}
			if answer, err := m.Pack(); err == nil {
				c.WriteTo(answer, from)
			}
		}
	}()
	w.t.Cleanup(func() { c.Close(); <-done })
}

// lookup asks the router's resolver, as a local network hands it out, for a name.
func (w *country) lookup(name string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (c net.Conn, err error) {
		w.client.in(func() error { c, err = net.Dial("udp", "192.168.7.1:53"); return nil })
		return c, err
	}}
	return r.LookupNetIP(w.t.Context(), "ip4", name)
}

// from fetches a few bytes of the site at an address, and says by what address it was
// asked.
func (w *country) from(host string) (string, error) {
	q, err := http.NewRequestWithContext(w.t.Context(), "GET", "http://"+net.JoinHostPort(host, "80")+"/", nil)
	if err != nil {
		return "", err
	}
	q.Header.Set("Range", "bytes=0-9")
	r, err := w.line.Do(q)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return r.Header.Get("Asked-From"), err
}

// download fetches the page as a program does that goes on where it was when its
// connection breaks; after each read it calls each.
func (w *country) download(host string, each func(have int)) {
	w.t.Helper()
	var have []byte
	w.eventually("the page came whole", func() bool {
		q, err := http.NewRequestWithContext(w.t.Context(), "GET", "http://"+net.JoinHostPort(host, "80")+"/", nil)
		if err != nil {
			w.t.Fatal(err)
		}
		q.Header.Set("Range", fmt.Sprintf("bytes=%d-", len(have)))
		r, err := w.line.Do(q)
		if err != nil {
			w.t.Logf("at %d of %d bytes: %v", len(have), len(w.body), err)
			return false
		}
		defer r.Body.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := r.Body.Read(b)
			have = append(have, b[:n]...)
			each(len(have))
			if err == io.EOF {
				return len(have) >= len(w.body)
			}
			if err != nil {
				w.t.Logf("at %d of %d bytes: %v", len(have), len(w.body), err)
				return false
			}
		}
	})
	if !bytes.Equal(have, w.body) {
		w.t.Errorf("%d bytes came, and are not the page", len(have))
	}
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
			for _, to := range []string{host4 + ":9", host4 + ":53", "192.168.7.1:53", "192.168.7.1:9", "8.8.8.8:443", "8.8.8.8:853", away4 + ":9", "224.0.0.251:5353"} {
				c4.WriteToUDPAddrPort([]byte(canary), netip.MustParseAddrPort(to))
			}
			for _, to := range []string{"[" + host6 + "]:53", "[fd07::1]:53", "[fd07::1]:9", "[" + host6 + "]:443", "[" + away6 + "]:9", "[ff02::fb%eth0]:5353"} {
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
