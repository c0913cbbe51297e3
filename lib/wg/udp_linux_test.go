package wg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// opened is a way, what receives on each family, and where it listens on an address.
func opened(t *testing.T, sticky bool, ip string) (w *udp, receive map[bool]conn.ReceiveFunc, at string) {
	t.Helper()
	w = newUDP(sticky).(*udp)
	fns, port, err := w.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	receive = map[bool]conn.ReceiveFunc{}
	for i, s := range w.socks {
		receive[s.is4] = fns[i]
	}
	return w, receive, netip.AddrPortFrom(netip.MustParseAddr(ip), port).String()
}

// bowl is what a device gives to a receiver.
type bowl struct {
	bufs  [][]byte
	sizes []int
	eps   []conn.Endpoint
}

func newBowl() *bowl {
	b := &bowl{make([][]byte, batch), make([]int, batch), make([]conn.Endpoint, batch)}
	for i := range b.bufs {
		b.bufs[i] = make([]byte, 1<<16-1)
	}
	return b
}

// all receives so many datagrams.
func (b *bowl) all(t *testing.T, receive conn.ReceiveFunc, n int) (got [][]byte, from conn.Endpoint) {
	t.Helper()
	for len(got) < n {
		k, err := receive(b.bufs, b.sizes, b.eps)
		if err != nil {
			t.Fatal(err)
		}
		for i := range k {
			if b.sizes[i] > 0 {
				got, from = append(got, bytes.Clone(b.bufs[i][:b.sizes[i]])), b.eps[i]
			}
		}
	}
	return got, from
}

// sent makes datagrams of sizes that devices send: trains of one, trains of several behind
// each other, and single ones.
func sent(r *rand.Rand) (bufs [][]byte) {
	sizes := []int{32, 96, 148, 500, 1000, 1452, 8900}
	size := sizes[r.IntN(len(sizes))]
	for range 1 + r.IntN(batch) {
		switch r.IntN(20) {
		case 0:
			size = sizes[r.IntN(len(sizes))]
		case 1:
			bufs = append(bufs, make([]byte, 1+r.IntN(size)))
		}
		bufs = append(bufs, make([]byte, size))
	}
	bufs = bufs[:min(len(bufs), batch)]
	var seed [32]byte
	binary.NativeEndian.PutUint64(seed[:], r.Uint64())
	fill := rand.NewChaCha8(seed)
	for _, b := range bufs {
		fill.Read(b)
	}
	return bufs
}

// What one end sends comes to the other as it was, in order, whatever the sizes: in
// trains, without them, and where nobody gives them.
func TestG6_TrainsComeAsTheyWere(t *testing.T) {
	nothingLeft(t)
	for _, c := range []struct {
		name            string
		ip              string
		gather, scatter bool
	}{{"trains", "127.0.0.1", true, true}, {"IPv6", "::1", true, true}, {"nobody gathers", "127.0.0.1", false, true}, {"nobody scatters", "127.0.0.1", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			ownNetwork(t)
			a, _, _ := opened(t, false, c.ip)
			b, receive, at := opened(t, false, c.ip)
			is4 := netip.MustParseAddrPort(at).Addr().Is4()
			for _, s := range a.socks {
				if !s.gather.Load() {
					t.Fatal("this kernel takes no trains")
				}
				s.gather.Store(c.gather)
			}
			if !c.scatter {
				for _, s := range b.socks {
					s.scatter = false
					if err := s.set(unix.SOL_UDP, unix.UDP_GRO, 0); err != nil {
						t.Fatal(err)
					}
					receive[s.is4] = s.receiver()
				}
			}
			end, err := a.ParseEndpoint(at)
			if err != nil {
				t.Fatal(err)
			}
			r, into := rand.New(rand.NewPCG(1, 2)), newBowl()
			for round := range 300 {
				want := sent(r)
				if err := a.Send(want, end); err != nil {
					t.Fatal(err)
				}
				got, _ := into.all(t, receive[is4], len(want))
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Fatalf("round %d: datagram %d of %d has %d bytes, was sent with %d, or others", round, i, len(want), len(got[i]), len(want[i]))
					}
				}
			}
		})
	}
}

// A path that takes less than a datagram of a train has it cut, and nothing is lost.
func TestATrainBeyondTheMTU(t *testing.T) {
	nothingLeft(t)
	ownNetwork(t)
	mtuOf(t, "lo", 1280)
	a, _, _ := opened(t, false, "127.0.0.1")
	_, receive, at := opened(t, false, "127.0.0.1")
	end, _ := a.ParseEndpoint(at)
	var want [][]byte // a train that goes, one that does not, and one behind it
	for i, size := range []int{500, 500, 1452, 1452, 1452, 700, 700} {
		want = append(want, bytes.Repeat([]byte{byte(i)}, size))
	}
	for range 3 {
		if err := a.Send(want, end); err != nil {
			t.Fatal(err)
		}
		got, _ := newBowl().all(t, receive[true], len(want))
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("datagram %d: %d bytes", i, len(got[i]))
			}
		}
	}
}

// A strict socket takes no message of more than most datagrams, and writes down what it takes.
type strict struct {
	most  int
	err   error
	taken []string
	trips int
}

func (s *strict) ReadBatch([]ipv4.Message, int) (int, error) { return 0, io.EOF }

func (s *strict) WriteBatch(ms []ipv4.Message, _ int) (int, error) {
	s.trips++
	for i, m := range ms {
		if len(m.Buffers) > s.most {
			if i == 0 {
				return -1, &net.OpError{Op: "write", Err: os.NewSyscallError("sendmmsg", s.err)}
			}
			return i, nil
		}
		for _, b := range m.Buffers {
			s.taken = append(s.taken, string(b))
		}
	}
	return len(ms), nil
}

// What the kernel refuses as a train goes one by one, each once and in order: from then on
// where the interface takes no trains, and this time where the path does not. What it
// refuses otherwise is an error, and nothing follows.
func TestTrainsThatAreRefused(t *testing.T) {
	nothingLeft(t)
	all := strings.Split("a bb bb bb c dd dd e", " ")
	for _, c := range []struct {
		err   error
		taken int
		on    bool // with trains
	}{{unix.EIO, len(all), false}, {unix.EINVAL, len(all), true}, {unix.EMSGSIZE, len(all), true}, {unix.EPERM, 1, true}, {unix.ENETUNREACH, 1, true}} {
		w, _, at := opened(t, false, "127.0.0.1")
		kernel := &strict{most: 1, err: c.err}
		for _, s := range w.socks {
			s.batches = kernel
		}
		end, _ := w.ParseEndpoint(at)
		var bufs [][]byte
		for _, b := range all {
			bufs = append(bufs, []byte(b))
		}
		err := w.Send(bufs, end)
		if !slices.Equal(kernel.taken, all[:c.taken]) || (err == nil) != (c.taken == len(all)) || err != nil && !errors.Is(err, c.err) {
			t.Errorf("%v: went %q, %v", c.err, kernel.taken, err)
		}
		for _, s := range w.socks {
			if on := s.gather.Load(); s.is4 && on != c.on || !s.is4 && !on {
				t.Errorf("%v: trains go on: %v (IPv4: %v)", c.err, on, s.is4)
			}
		}
	}
	// Without trains there are no more messages at once than there is room for.
	w, _, at := opened(t, false, "127.0.0.1")
	kernel := &strict{most: 1}
	w.socks[0].batches = kernel
	w.socks[0].gather.Store(false)
	end, _ := w.ParseEndpoint(at)
	if err := w.Send(slices.Repeat([][]byte{{1}}, 2*batch), end); err != nil || len(kernel.taken) != 2*batch || kernel.trips != 2 {
		t.Errorf("%d went in %d turns, %v", len(kernel.taken), kernel.trips, err)
	}
}

// A train is of one size but for its last, of 64 datagrams, and no more than a packet holds.
func TestWhatIsATrain(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		want  int
	}{
		{[]int{9}, 1}, {[]int{9, 9, 9}, 3}, {[]int{9, 10}, 1}, {[]int{9, 9, 8, 8}, 3}, {[]int{9, 8, 9}, 2}, {[]int{9, 9, 10, 10}, 2},
		{slices.Repeat([]int{1452}, 64), 45}, {slices.Repeat([]int{100}, 128), 64}, {append(slices.Repeat([]int{100}, 63), 99, 99), 64},
		{[]int{32000, 32000, 1507}, 3}, {[]int{32000, 32000, 1508}, 2}, {[]int{65507}, 1},
	} {
		var bufs [][]byte
		for _, n := range c.sizes {
			bufs = append(bufs, make([]byte, n))
		}
		if got := train(bufs); got != c.want {
			t.Errorf("%d of %v", got, c.sizes)
		}
	}
}

// A feed is a kernel that has these messages: payloads, and the sizes of their datagrams, 0
// where the kernel says none.
type feed struct {
	payloads [][]byte
	cuts     []int
	at       int
	laid     int // the most buffers that a message had
}

func (f *feed) WriteBatch([]ipv4.Message, int) (int, error) { return 0, io.EOF }

func (f *feed) ReadBatch(ms []ipv4.Message, _ int) (n int, _ error) {
	for ; n < len(ms) && f.at < len(f.payloads); n++ {
		m, all := &ms[n], f.payloads[f.at]
		f.laid = max(f.laid, len(m.Buffers))
		m.N, m.NN, m.Flags = 0, 0, 0
		for _, b := range m.Buffers {
			m.N += copy(b, all[m.N:])
		}
		if m.N < len(all) {
			m.Flags = unix.MSG_TRUNC
		}
		if f.cuts[f.at] > 0 {
			m.NN = unix.CmsgSpace(4) // cmsg(3)
			binary.NativeEndian.PutUint64(m.OOB, uint64(unix.CmsgLen(4)))
			binary.NativeEndian.PutUint32(m.OOB[8:], unix.SOL_UDP)
			binary.NativeEndian.PutUint32(m.OOB[12:], unix.UDP_GRO)
			binary.NativeEndian.PutUint32(m.OOB[16:], uint32(f.cuts[f.at]))
		}
		m.Addr = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1 + f.at}
		f.at++
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// FuzzTrains receives whatever the kernel may give: each message is cut by the size that is
// said of it, whatever those before it were; 64 datagrams of it at most; and each datagram
// has the end that it came from.
func FuzzTrains(f *testing.F) {
	f.Add([]byte{200, 1, 40, 0, 200, 1, 200, 1, 7, 7, 60, 9, 60, 9})
	f.Add([]byte{250, 250, 255, 1, 255, 2, 255, 255, 3, 0, 255, 0, 255, 4})
	f.Fuzz(func(t *testing.T, plan []byte) {
		var from feed
		var want []string
		var ports []uint16
		for i := 0; i+1 < len(plan) && i < 64; i += 2 {
			all := make([]byte, 1+int(plan[i])*int(plan[i])) // to 65,026
			rand.NewChaCha8([32]byte{plan[i], byte(i)}).Read(all)
			cut := int(plan[i+1]) * int(plan[i+1]) / 8
			from.payloads, from.cuts = append(from.payloads, all), append(from.cuts, cut)
			for k := 0; k < maxTrain && len(all) > 0; k++ {
				n := len(all)
				if cut > 0 {
					n = min(n, cut)
				}
				want, ports = append(want, string(all[:n])), append(ports, uint16(len(from.cuts)))
				all = all[n:]
			}
		}
		s := &socket{batches: &from, is4: true, scatter: true}
		receive, into := s.receiver(), newBowl()
		for {
			n, err := receive(into.bufs, into.sizes, into.eps)
			if err != nil {
				break
			}
			for i := range n {
				if into.sizes[i] == 0 {
					continue
				}
				if len(want) == 0 {
					t.Fatal("more came than was sent")
				}
				if got := string(into.bufs[i][:into.sizes[i]]); got != want[0] || into.eps[i].(*udpEnd).to.Port() != ports[0] {
					t.Fatalf("%d bytes from %s, want %d from port %d; messages of %d datagrams", len(got), into.eps[i].DstToString(), len(want[0]), ports[0], from.cuts)
				}
				want, ports = want[1:], ports[1:]
			}
		}
		if len(want) > 0 {
			t.Fatalf("%d are missing", len(want))
		}
	})
}

// Whoever sends much is read in few calls, and where it is opened: a train at once, and by
// the size of the train before.
func TestTrainsAreReadAsSuch(t *testing.T) {
	nothingLeft(t)
	ownNetwork(t)
	a, _, _ := opened(t, false, "127.0.0.1")
	_, receive, at := opened(t, false, "127.0.0.1")
	end, _ := a.ParseEndpoint(at)
	into := newBowl()
	for range 2 {
		if err := a.Send(slices.Repeat([][]byte{make([]byte, 1000)}, maxTrain), end); err != nil {
			t.Fatal(err)
		}
		if n, err := receive[true](into.bufs, into.sizes, into.eps); n != maxTrain || err != nil {
			t.Errorf("%d at once, %v", n, err)
		}
	}
	from := feed{payloads: [][]byte{make([]byte, 100), make([]byte, 100), make([]byte, 100)}, cuts: []int{50, 50, 50}}
	s := &socket{batches: &from, is4: true, scatter: true}
	again := s.receiver()
	for range 2 {
		again(into.bufs, into.sizes, into.eps)
	}
	if from.laid != maxTrain {
		t.Errorf("a train is put into %d buffers", from.laid)
	}
	// A datagram that does not fit is lost, not cut.
	small := slices.Repeat([][]byte{make([]byte, 10)}, batch)
	from = feed{payloads: [][]byte{make([]byte, 11), make([]byte, 10)}, cuts: []int{0, 0}}
	s = &socket{batches: &from, is4: true}
	n, err := s.receiver()(small, into.sizes, into.eps)
	if n != 2 || into.sizes[0] != 0 || into.sizes[1] != 10 || err != nil {
		t.Errorf("%d, of %v bytes, %v", n, into.sizes[:2], err)
	}
}

// mtuOf sets the MTU of an interface.
func mtuOf(t *testing.T, name string, mtu uint32) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint32(mtu)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, r); err != nil {
		t.Fatal(err)
	}
}

// An exit answers from the address that it was asked at; until that is cleared, as when
// its mark changes. A client has its source from the kernel.
func TestTheAddressThatWasAsked(t *testing.T) {
	nothingLeft(t)
	for _, c := range []struct {
		sticky, clear bool
		want          string
	}{{true, false, "127.0.0.7"}, {true, true, "127.0.0.1"}, {false, false, "127.0.0.1"}} {
		exit, receive, at := opened(t, c.sticky, "127.0.0.7")
		client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		client.WriteToUDPAddrPort([]byte("who is there?"), netip.MustParseAddrPort(at))
		_, end := newBowl().all(t, receive[true], 1)
		if src := end.SrcIP(); c.sticky != (src == netip.MustParseAddr("127.0.0.7")) || src.IsValid() != c.sticky {
			t.Errorf("asked at %v", src)
		}
		if c.clear {
			end.ClearSrc()
			if end.SrcIP().IsValid() {
				t.Error("the source is still there")
			}
		}
		if err := exit.Send([][]byte{[]byte("I am"), []byte("here")}, end); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, from, err := client.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "I am" || from.Addr().String() != c.want {
			t.Errorf("%q from %v, %v; want it from %s", b[:n], from, err, c.want)
		}
	}
}

// Each datagram has its own sender as its end, and the address that this one asked at: also
// when either changes, and when the source was cleared.
func TestEndsFollowTheirSenders(t *testing.T) {
	nothingLeft(t)
	_, receive, at := opened(t, true, "127.0.0.7")
	port := netip.MustParseAddrPort(at).Port()
	var clients [2]*net.UDPConn
	for i := range clients {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients[i] = c
	}
	into := newBowl()
	var last conn.Endpoint
	for i, step := range []struct {
		client int
		at     string
		clear  bool
	}{{0, "127.0.0.7", false}, {1, "127.0.0.7", false}, {0, "127.0.0.7", false}, {0, "127.0.0.8", false}, {0, "127.0.0.8", true}, {1, "127.0.0.7", false}, {1, "127.0.0.7", false}} {
		if step.clear {
			last.ClearSrc()
		}
		c := clients[step.client]
		if _, err := c.WriteToUDPAddrPort([]byte{byte(i)}, netip.AddrPortFrom(netip.MustParseAddr(step.at), port)); err != nil {
			t.Fatal(err)
		}
		got, end := into.all(t, receive[true], 1)
		if got[0][0] != byte(i) || end.DstToString() != c.LocalAddr().String() || end.SrcToString() != step.at {
			t.Errorf("%d: %d from %s to %s, want %v", i, got[0][0], end.DstToString(), end.SrcToString(), step)
		}
		last = end
	}
}

// A train too has the address that it was asked at, and is answered from there by one.
func TestTrainsAreAnsweredWhereTheyAsked(t *testing.T) {
	nothingLeft(t)
	for _, ip := range []string{"127.0.0.7", "::1"} {
		exit, asked, at := opened(t, true, ip)
		client, answered, _ := opened(t, false, ip)
		is4, train := ip != "::1", slices.Repeat([][]byte{[]byte("train")}, 3)
		to, _ := client.ParseEndpoint(at)
		for range 2 {
			if err := client.Send(train, to); err != nil {
				t.Fatal(err)
			}
			into := newBowl()
			n, err := asked[is4](into.bufs, into.sizes, into.eps)
			if err != nil || n != len(train) {
				t.Fatalf("%d, %v", n, err)
			}
			end := into.eps[n-1]
			if end.SrcToString() != ip {
				t.Errorf("asked at %s, want %s", end.SrcToString(), ip)
			}
			if err := exit.Send(train, end); err != nil {
				t.Fatal(err)
			}
			n, err = answered[is4](into.bufs, into.sizes, into.eps)
			if err != nil || n != len(train) || into.eps[0].DstToString() != at {
				t.Errorf("%d from %s, want a train from %s, %v", n, into.eps[0].DstToString(), at, err)
			}
		}
	}
}

// Both families are opened on one port: where that of the first is taken in the second,
// another is tried.
func TestBothFamiliesOnOnePort(t *testing.T) {
	nothingLeft(t)
	ownNetwork(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40003"), 0); err != nil {
		t.Fatal(err)
	}
	for port := range 3 {
		c, err := net.ListenUDP("udp6", &net.UDPAddr{Port: 40000 + port})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for range 5 {
		w := newUDP(false)
		fns, port, err := w.Open(0)
		if len(fns) != 2 || port != 40003 || err != nil {
			t.Errorf("%d families on port %d, %v", len(fns), port, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A mark is on the sockets of both families, whose buffers are larger than others'.
func TestSocketsAreMarked(t *testing.T) {
	nothingLeft(t)
	w, _, _ := opened(t, false, "127.0.0.1")
	if err := w.SetMark(77); err != nil {
		t.Fatal(err)
	}
	if len(w.socks) != 2 {
		t.Fatalf("%d sockets", len(w.socks))
	}
	for _, s := range w.socks {
		raw, err := s.c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			for option, want := range map[int]int{unix.SO_MARK: 77, unix.SO_RCVBUF: 2 * udpBuffer, unix.SO_SNDBUF: 2 * udpBuffer} { // doubled: socket(7)
				if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); got != want || err != nil {
					t.Errorf("option %d is %d, %v; want %d", option, got, err, want)
				}
			}
		})
	}
}

// Of another way's ends, of a family that is not there, and of a closed way nothing is sent.
func TestWhatUDPRefuses(t *testing.T) {
	nothingLeft(t)
	w, receive, at := opened(t, false, "127.0.0.1")
	if _, _, err := w.Open(0); err != conn.ErrBindAlreadyOpen {
		t.Errorf("opened twice: %v", err)
	}
	if err := w.Send([][]byte{{1}}, &conn.StdNetEndpoint{}); err != conn.ErrWrongEndpointType {
		t.Errorf("another way's end: %v", err)
	}
	if _, err := w.ParseEndpoint("nowhere"); err == nil {
		t.Error("an end that is none: parsed")
	}
	port := netip.MustParseAddrPort(at).Port()
	mapped, err := w.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), port).String())
	if err != nil || mapped.DstToString() != at {
		t.Errorf("IPv4 within IPv6: %v, %v", mapped, err)
	}
	if err := w.Send([][]byte{{1}}, mapped); err != nil {
		t.Error(err)
	}
	newBowl().all(t, receive[true], 1)
	sixth := newUDPEnd(netip.AddrPortFrom(netip.IPv6Loopback(), port))
	if err := (&udp{socks: w.socks[:1]}).Send([][]byte{{1}}, sixth); err != unix.EAFNOSUPPORT {
		t.Errorf("a family that is not there: %v", err)
	}
	if _, _, err := newUDP(false).Open(port); err == nil {
		t.Error("a port that is taken: opened")
	}
	done := make(chan error)
	go func() {
		_, err := receive[true](newBowl().bufs, make([]int, batch), make([]conn.Endpoint, batch))
		done <- err
	}()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := take(t, done, "end"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	end, _ := w.ParseEndpoint(at)
	if err := w.Send([][]byte{{1}}, end); err == nil {
		t.Error("a closed way: sent")
	}
	if _, again, err := w.Open(port); err != nil || again != port {
		t.Errorf("opened again on %d: %d, %v", port, again, err)
	}
}
