package wg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// an opened way, and where it listens on an address.
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
	want := [][]byte{bytes.Repeat([]byte{1}, 1452), bytes.Repeat([]byte{2}, 1452), bytes.Repeat([]byte{3}, 1452)}
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
