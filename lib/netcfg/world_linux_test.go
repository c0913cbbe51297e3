package netcfg

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A space is a network namespace of the test's own: it has no name and goes with
// the test.
type space struct {
	t  *testing.T
	fd int
}

// newSpace is where the tests need their rights.
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
		t.Fatalf("a network namespace: %v (these tests need root, or CAP_SYS_ADMIN and CAP_NET_ADMIN)", err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	s.in(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return s
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// try runs f in the namespace.
func (s *space) try(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (s *space) in(f func() error) {
	s.t.Helper()
	if err := s.try(f); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) addr(link string, addrs ...string) {
	s.t.Helper()
	s.in(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			p := netip.MustParsePrefix(a)
			n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD}); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
		}
		return netlink.LinkSetUp(l)
	})
}

func (s *space) route(link, to, via string) {
	s.t.Helper()
	s.in(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipnet(netip.MustParsePrefix(to))}
		if via != "" {
			r.Gw = netip.MustParseAddr(via).AsSlice()
		}
		return netlink.RouteAdd(r)
	})
}

// join puts a cable between two namespaces.
func join(a *space, nameA string, b *space, nameB string) {
	a.t.Helper()
	a.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(b.fd)})
	})
}

// A world is a client with a TUN and one cable to a router, which is the local
// network, the Internet and who listens on the cable at once.
type world struct {
	t              *testing.T
	client, router *space
	cable          *capture
}

const (
	tunName    = "tt0"
	mark       = 0x746f70
	publicHost = "198.51.100.7"
	public6    = "2001:db8:99::7"
	lanHost    = "192.168.7.1"
	lan6       = "fd07::1"
)

var (
	endpoint  = netip.MustParseAddrPort("203.0.113.5:4500")
	endpoint6 = netip.MustParseAddrPort("[2001:db8:5::5]:4500")
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, client: newSpace(t), router: newSpace(t)}
	join(w.client, "eth0", w.router, "lan0")
	w.router.addr("lan0", "192.168.7.1/24", "fd07::1/64")
	w.client.addr("eth0", "192.168.7.2/24", "fd07::2/64", "2001:db8:7::2/64")
	w.router.addr("lo", publicHost+"/32", public6+"/128", endpoint.Addr().String()+"/32", endpoint6.Addr().String()+"/128", "203.0.113.6/32")
	w.client.route("eth0", "0.0.0.0/0", lanHost)
	w.client.route("eth0", "::/0", lan6)
	w.router.route("lan0", "2001:db8:7::/64", "")
	w.cable = w.router.capture("lan0")
	return w
}

// openTUN makes the TUN; it lives as long as the file.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

func (s *space) openTUN(name string) (f *os.File) {
	s.t.Helper()
	s.in(func() (err error) { f, err = openTUN(name); return err })
	s.t.Cleanup(func() { f.Close() })
	return f
}

// tunnel is the usual one: everything, both families, the kill switch.
func tunnel() Tunnel {
	return Tunnel{
		Name: tunName, Mark: mark, MTU: 1420, KillSwitch: true,
		Addrs:     []netip.Prefix{netip.MustParsePrefix("10.66.0.2/32"), netip.MustParsePrefix("fd66::2/128")},
		Endpoints: []netip.AddrPort{endpoint, endpoint6},
		DNS:       []netip.Addr{netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("fd66::1")},
	}
}

// A capture keeps every frame of an interface.
type capture struct {
	t      *testing.T
	mu     sync.Mutex
	frames [][]byte
	grown  chan struct{}
}

func (s *space) capture(link string) *capture {
	s.t.Helper()
	var fd int
	s.in(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all)); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index})
	})
	c := &capture{t: s.t, grown: make(chan struct{}, 1)}
	f, done := os.NewFile(uintptr(fd), "capture"), make(chan struct{})
	raw, err := f.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		_ = raw.Read(func(fd uintptr) bool {
			for {
				n, from, err := unix.Recvfrom(int(fd), b, 0)
				if err == unix.EAGAIN {
					return false
				}
				if err != nil {
					return true
				}
				if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
					continue
				}
				c.mu.Lock()
				c.frames = append(c.frames, bytes.Clone(b[:n]))
				c.mu.Unlock()
				select {
				case c.grown <- struct{}{}:
				default:
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

// wait waits for a frame from the index on, and is the index after it.
func (c *capture) wait(from int, what string, is func(packet) bool) int {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	for i := from; ; {
		c.mu.Lock()
		frames := c.frames
		c.mu.Unlock()
		for ; i < len(frames); i++ {
			if p, ok := decode(frames[i][14:]); ok && is(p) {
				return i + 1
			}
		}
		select {
		case <-c.grown:
		case <-deadline:
			c.t.Fatalf("no %s among %d frames", what, c.len()-from)
		}
	}
}

// leaks describes the frames that nobody allowed.
func (c *capture) leaks(from, to int, allowed func(packet) bool) (found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames[from:to] {
		kind := binary.BigEndian.Uint16(f[12:])
		if kind == unix.ETH_P_ARP {
			continue
		}
		p, ok := decode(f[14:])
		if !ok || !housekeeping(p) && !allowed(p) {
			found = append(found, p.String())
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// A packet is what the tests look at of one.
type packet struct {
	src, dst netip.AddrPort // the port is the kind of ICMP
	proto    byte
	payload  []byte
}

func (p packet) String() string {
	return fmt.Sprintf("%s -> %s proto %d %.20q", p.src, p.dst, p.proto, p.payload)
}

func decode(b []byte) (p packet, ok bool) {
	if len(b) < 20 {
		return p, false
	}
	var rest []byte
	var from, to netip.Addr
	switch b[0] >> 4 {
	case 4:
		from, to = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.proto, rest = b[9], b[int(b[0]&15)*4:]
	case 6:
		if len(b) < 40 {
			return p, false
		}
		from, to = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.proto, rest = b[6], b[40:]
		if p.proto == 0 && len(rest) > 8 { // hop-by-hop options, of MLD
			p.proto, rest = rest[0], rest[8*(1+int(rest[1])):]
		}
	default:
		return p, false
	}
	var s, d uint16
	switch p.proto {
	case unix.IPPROTO_UDP:
		s, d, p.payload = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:]), rest[8:]
	case unix.IPPROTO_TCP:
		s, d = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
		p.payload = rest[rest[12]>>4*4:]
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		d, p.payload = uint16(rest[0]), rest[1:]
	}
	p.src, p.dst = netip.AddrPortFrom(from, s), netip.AddrPortFrom(to, d)
	return p, true
}

// housekeeping is what any host says on its cable: neighbours and listeners.
func housekeeping(p packet) bool {
	return p.proto == unix.IPPROTO_ICMPV6 && slices.Contains([]uint16{130, 131, 132, 133, 135, 136, 143}, p.dst.Port()) &&
		!bytes.Contains(p.payload, []byte(canary))
}

// record keeps what the host sends into a tunnel, in the form of a capture.
func record(t *testing.T, tun *os.File) *capture { return readTUN(t, tun, func([]byte) {}) }

// reply answers each datagram with itself, as an exit's resolver might: source and
// destination change places, and every checksum stays as it is.
func reply(t *testing.T, tun *os.File) *capture {
	return readTUN(t, tun, func(b []byte) {
		p, ok := decode(b)
		if !ok || p.proto != unix.IPPROTO_UDP {
			return
		}
		b = bytes.Clone(b)
		head, at, n := 40, 8, 16
		if p.src.Addr().Is4() {
			head, at, n = 20, 12, 4
		}
		swap := func(at, n int) {
			for i := range n {
				b[at+i], b[at+n+i] = b[at+n+i], b[at+i]
			}
		}
		swap(at, n)
		swap(head, 2)
		_, _ = tun.Write(b)
	})
}

func readTUN(t *testing.T, tun *os.File, do func([]byte)) *capture {
	c, done := &capture{t: t, grown: make(chan struct{}, 1)}, make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, err := tun.Read(b)
			if err != nil {
				return
			}
			c.mu.Lock()
			c.frames = append(c.frames, append(make([]byte, 14), b[:n]...))
			c.mu.Unlock()
			select {
			case c.grown <- struct{}{}:
			default:
			}
			do(b[:n])
		}
	}()
	t.Cleanup(func() { tun.Close(); <-done })
	return c
}
