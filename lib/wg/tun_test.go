package wg

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// ownNetwork puts the test's goroutine, and the thread that ends with it, into a
// network namespace that nobody else has, with a loopback.
func ownNetwork(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // for good
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("a network namespace: %v (the tests of this room need root, or CAP_SYS_ADMIN and CAP_NET_ADMIN, and /dev/net/tun)", err)
	}
	ifup(t, "lo", netip.Addr{})
}

// ifup brings an interface up, with an address of IPv4 in a /24.
func ifup(t *testing.T, name string, a netip.Addr) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	set := func(op uint, fill func(*unix.Ifreq) error) {
		t.Helper()
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = fill(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, op, r)
		}
		if err != nil {
			t.Fatalf("set up %s: %v", name, err)
		}
	}
	if a.IsValid() {
		set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(a.AsSlice()) })
		set(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) })
	}
	if name != "lo" { // who handed it over did so too
		set(unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil })
	}
	set(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP); return nil })
}

// mtu of the tests is below 1,280, so that the kernel sends nothing of its own (IPv6)
// that could wake a reader.
const mtu = 1200

// kernelLine is wgtest0, in a network that nobody else has.
func kernelLine(t *testing.T) *TUN {
	t.Helper()
	ownNetwork(t)
	line, err := NewTUN("wgtest%d", mtu)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { line.Close() })
	return line
}

// A line of the kernel: packets both ways, what is injected while it is idle, and a
// device after another.
func TestAKernelLine(t *testing.T) {
	nothingLeft(t)
	line := kernelLine(t)
	if line.Name() != "wgtest0" || line.MTU() != mtu || line.BatchSize() < 1 {
		t.Errorf("%s, MTU %d", line.Name(), line.MTU())
	}
	onKernelLine(t, line)
	if err := line.Close(); err != nil {
		t.Error(err)
	}
	if _, err := net.InterfaceByName("wgtest0"); err == nil {
		t.Error("the interface outlives its line")
	}
}

// The same for a descriptor that somebody handed over, which blocks as such do.
func TestAKernelLineThatWasHandedOver(t *testing.T) {
	nothingLeft(t)
	ownNetwork(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := unix.NewIfreq("given0")
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		t.Fatal(err)
	}
	line, err := TUNFromFile(os.NewFile(uintptr(fd), "fd 3"), mtu)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	onKernelLine(t, line)
}

func onKernelLine(t *testing.T, line *TUN) {
	t.Helper()
	me, you := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	ifup(t, line.Name(), me)
	b := end{key: NewPrivate(), line: newLane()}
	b.dev = open(t, Config{Key: b.key, Line: b.line})
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: me.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	here := c.LocalAddr().(*net.UDPAddr).AddrPort()
	there := netip.AddrPortFrom(you, 9)
	for round := range 3 {
		key := NewPrivate()
		tap := &watch{}
		a := open(t, Config{Key: key, Line: line, Tap: tap})
		if err := a.SetPeer(Peer{Key: b.key.Public(), Endpoint: at(b.dev), Allowed: []netip.Prefix{netip.PrefixFrom(you, 32)}}); err != nil {
			t.Fatal(err)
		}
		if err := b.dev.SetPeer(Peer{Key: key.Public(), Allowed: []netip.Prefix{netip.PrefixFrom(me, 32)}}); err != nil {
			t.Fatal(err)
		}
		for i := range 10 { // nothing comes from the kernel so far
			word := fmt.Sprint("tick ", round, i)
			if a.Inject(packet(me, you, word)) != 1 {
				t.Fatal("no room")
			}
			wants(t, b.line, word)
		}
		if tap.sent() != 0 {
			t.Fatal("the line was not idle")
		}
		word := fmt.Sprint("hello ", round)
		if _, err := c.WriteToUDPAddrPort([]byte(word), there); err != nil {
			t.Fatal(err)
		}
		u, err := ParseUDP(take(t, b.line.out, "packet"))
		if err != nil || u.From != here || u.To != there || string(u.Body) != word {
			t.Fatalf("%v, %v", u, err)
		}
		b.line.in <- UDP{there, here, []byte(word + " back")}.Packet()
		got := make([]byte, 100)
		n, from, err := c.ReadFromUDPAddrPort(got)
		if err != nil || from != there || string(got[:n]) != word+" back" {
			t.Fatalf("%q from %v, %v", got[:n], from, err)
		}
		a.Close()
		if err := b.dev.RemovePeer(key.Public()); err != nil {
			t.Fatal(err)
		}
	}
}

// A Read brings what waits, in order, and a giant packet whole behind it.
func TestPacketsAreReadTogether(t *testing.T) {
	nothingLeft(t)
	line := kernelLine(t)
	ifup(t, line.Name(), netip.MustParseAddr("10.9.0.1"))
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 9})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const small, giant, each = 40, 64, 500 // more are a train from Linux 6.9 on
	for i := range small {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	train := make([]byte, giant*each)
	for i := range giant {
		train[i*each] = byte(small + i)
	}
	if _, _, err := c.WriteMsgUDP(train, appendTrain(nil, each), nil); err != nil {
		t.Fatal(err)
	}
	bufs, sizes := make([][]byte, line.BatchSize()), make([]int, line.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	const offset = 16
	var came []byte
	for reads := 0; len(came) < small+giant; reads++ {
		n, err := line.Read(bufs, sizes, offset)
		if err != nil {
			t.Fatal(err)
		}
		if reads == 0 && n != gather {
			t.Errorf("%d came at once, of %d that waited", n, small)
		}
		for i := range n {
			u, err := ParseUDP(bufs[i][offset : offset+sizes[i]])
			if err != nil {
				t.Fatal(err)
			}
			came = append(came, u.Body[0])
		}
	}
	for i, b := range came {
		if int(b) != i {
			t.Fatalf("out of order: %v", came)
		}
	}
	line.Wake()
	if n, err := line.Read(bufs, sizes, offset); n != 0 || err != nil {
		t.Errorf("woken: %d, %v", n, err)
	}
}

// counted is a kernel whose packets are so many segments as the bytes of a pipe say.
type counted struct {
	pipe   *os.File
	events chan tun.Event
	next   byte
}

func (c *counted) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	var b [1]byte
	if _, err := c.pipe.Read(b[:]); err != nil {
		return 0, err
	}
	c.next += b[0]
	for i := range int(b[0]) {
		if i == len(bufs) {
			return i, tun.ErrTooManySegments
		}
		bufs[i][offset], sizes[i] = c.next-b[0]+byte(i), 1
	}
	return int(b[0]), nil
}

func (c *counted) Write([][]byte, int) (int, error) { return 0, io.ErrClosedPipe }
func (c *counted) File() *os.File                   { return c.pipe }
func (c *counted) MTU() (int, error)                { return mtu, nil }
func (c *counted) Name() (string, error)            { return "counted", nil }
func (c *counted) Events() <-chan tun.Event         { return c.events }
func (c *counted) BatchSize() int                   { return batch }
func (c *counted) Close() error                     { close(c.events); return c.pipe.Close() }

// A giant packet has as much room behind others as it would have alone.
func TestAGiantPacketBehindOthersIsReadWhole(t *testing.T) {
	nothingLeft(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	line, err := newTUN(&counted{pipe: r, events: make(chan tun.Event)}, mtu)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	for small := range gather + 1 {
		if _, err := w.Write(append(bytes.Repeat([]byte{1}, small), batch, 1)); err != nil {
			t.Fatal(err)
		}
		bufs, sizes := make([][]byte, line.BatchSize()), make([]int, line.BatchSize())
		for i := range bufs {
			bufs[i] = make([]byte, 2)
		}
		for n := 0; n < small+batch+1; {
			k, err := line.Read(bufs, sizes, 1)
			if err != nil {
				t.Fatal(err)
			}
			for i := range k {
				if got, want := bufs[i][1], byte(n+i); got != want {
					t.Fatalf("behind %d others: segment %d is %d", small, n+i-small, got)
				}
			}
			n += k
		}
		line.dev.(*counted).next = 0
	}
	// What came before an end comes, and then the end.
	if _, err := w.Write([]byte{1, 1}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	two, sizes := [][]byte{{0, 9}, {0, 9}}, make([]int, 2)
	bufs := append(two, make([][]byte, batch)...)
	if n, err := line.Read(bufs, append(sizes, make([]int, batch)...), 1); n != 2 || err != nil || two[0][1] != 0 || two[1][1] != 1 {
		t.Errorf("before the end: %d, %v, %v", n, two, err)
	}
	if n, err := line.Read(bufs, make([]int, batch+2), 1); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

func TestWhatIsNoTUN(t *testing.T) {
	nothingLeft(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TUNFromFile(f, mtu); err == nil || !strings.Contains(err.Error(), "no TUN") {
		t.Error(err)
	}
	if err := f.Close(); err == nil {
		t.Error("the file was left open")
	}
	if _, err := NewTUN(strings.Repeat("x", 50), mtu); err == nil || !strings.Contains(err.Error(), "--socks") {
		t.Error(err)
	}
}

// wg(8) is answered, however many others hold their connection, and Close ends all.
func TestTheSocketOfWG(t *testing.T) {
	nothingLeft(t)
	a, b, _ := pair(t)
	name := fmt.Sprintf("wgtest%d", os.Getpid()) // the directory is the machine's
	if err := a.dev.ServeUAPI(name); err != nil {
		t.Fatalf("%v (the tests of this room need root)", err)
	}
	if a.dev.ServeUAPI(name) == nil || b.dev.ServeUAPI(name) == nil {
		t.Error("a second socket: made")
	}
	if b.dev.ServeUAPI("") == nil || b.dev.ServeUAPI("../x") == nil {
		t.Error("a name that is none: made")
	}
	path := filepath.Join(wgDir, name+".sock")
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Error(i, err)
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ask := func(what string) string {
		t.Helper()
		c := dial()
		if _, err := io.WriteString(c, what); err != nil {
			t.Fatal(err)
		}
		c.(*net.UnixConn).CloseWrite()
		all, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(all)
	}
	idle := dial()
	for range 3 {
		got := ask("get=1\n\n")
		for _, want := range []string{"private_key=" + a.key.hex(), "public_key=" + b.key.Public().hex(), fmt.Sprintf("listen_port=%d", a.dev.Port()), "errno=0\n\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in\n%s", want, got)
			}
		}
	}
	if got := ask("nonsense\n\n"); got != "" {
		t.Errorf("%q", got)
	}
	many := []net.Conn{idle}
	for range 2 * maxUAPI {
		many = append(many, dial())
	}
	half := dial()
	io.WriteString(half, "set=1\n") // holds the configuration, if it is let in
	done := make(chan struct{})
	go func() { defer close(done); a.dev.Close() }()
	take(t, done, "end of Close")
	for _, c := range append(many, half) {
		if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket outlives its device")
	}
	if a.dev.ServeUAPI(name) == nil {
		t.Error("a closed device: served")
	}
}
