package wg

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"top/lib/top"
)

// A Line is where a tunnel's packets come from and go to. Read and Write are as in
// wireguard's tun.Device; after Wake a Read that waits, or the next, returns without
// a packet. An error of Read is the line's end, and that of the device on it: after
// Close it is os.ErrClosed.
type Line interface {
	Read(bufs [][]byte, sizes []int, offset int) (int, error)
	Write(bufs [][]byte, offset int) (int, error)
	Wake()
	MTU() int
	BatchSize() int
	Close() error
}

// A TUN is a kernel interface as a line.
type TUN struct {
	dev  tun.Device
	raw  syscall.RawConn
	name string
	mtu  int
	done chan struct{}
}

// NewTUN makes the kernel interface of that name, or one with a free number when the
// name ends in %d.
func NewTUN(name string, mtu int) (*TUN, error) {
	dev, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, top.Errorf(top.Denied, "make interface %s: %v (needs root or CAP_NET_ADMIN; without it: --socks 127.0.0.1:1080)", name, err)
	}
	return newTUN(dev, mtu)
}

// TUNFromFile is a kernel interface that somebody with the right made and handed
// over, with that MTU. It needs no right, and closes the file whatever comes of it.
func TUNFromFile(f *os.File, mtu int) (*TUN, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, top.Errorf(top.Failed, "take the descriptor of %s: %v", f.Name(), err)
	}
	dev, _, err := tun.CreateUnmonitoredTUNFromFD(fd) // it makes it non-blocking, which Wake needs
	if err != nil {
		return nil, top.Errorf(top.Invalid, "%s is no TUN: %v (open it with IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)", f.Name(), err)
	}
	return newTUN(dev, mtu)
}

func newTUN(dev tun.Device, mtu int) (*TUN, error) {
	name, err := dev.Name()
	if err != nil {
		dev.Close()
		return nil, top.Errorf(top.Failed, "name of the interface: %v", err)
	}
	raw, err := dev.File().SyscallConn()
	if err != nil {
		dev.Close()
		return nil, top.Errorf(top.Failed, "descriptor of interface %s: %v", name, err)
	}
	t := &TUN{dev: dev, raw: raw, name: name, mtu: mtu, done: make(chan struct{})}
	go func() { // it ends with the device, and Close waits for it
		defer close(t.done)
		for range dev.Events() {
		}
	}()
	return t, nil
}

// Name is the kernel's.
func (t *TUN) Name() string { return t.name }

// MTU is that with which it was made.
func (t *TUN) MTU() int { return t.mtu }

// gather is up to how many packets a Read goes on for those that wait.
const gather = 16

// BatchSize is what one Read brings at most: behind what it gathered there is as much room
// for a giant packet as there would be without.
func (t *TUN) BatchSize() int { return gather - 1 + t.dev.BatchSize() }

// Read brings the segments of a giant packet, or some packets: the kernel gives them one
// by one, and to encrypt and send each by itself costs several times what it is to read.
func (t *TUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := t.read(bufs, sizes, offset)
	for err == nil && n > 0 && n < gather && n+t.dev.BatchSize() <= len(bufs) && t.waits() {
		var more int
		more, err = t.read(bufs[n:], sizes[n:], offset)
		n += more
		if more == 0 {
			break
		}
	}
	if n > 0 {
		return n, nil // an error comes again
	}
	return 0, err
}

// waits says whether a packet is there.
func (t *TUN) waits() bool {
	var n int
	err := t.raw.Control(func(fd uintptr) {
		n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return err == nil && n > 0
}

func (t *TUN) read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := t.dev.Read(bufs, sizes, offset)
	var system *os.PathError
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, t.dev.File().SetReadDeadline(time.Time{})
	case errors.Is(err, tun.ErrTooManySegments):
		return n, nil // the rest of a giant packet is lost, as on a full line
	case errors.As(err, &system), errors.Is(err, os.ErrClosed), errors.Is(err, io.EOF):
		return 0, err
	}
	return 0, nil // what wireguard could not split: one packet that somebody made up, not the line
}

func (t *TUN) Write(bufs [][]byte, offset int) (int, error) { return t.dev.Write(bufs, offset) }

// Wake makes Read return: the descriptor is in the poller, and its deadline passed.
func (t *TUN) Wake() { t.dev.File().SetReadDeadline(time.Unix(1, 0)) }

// Close removes the interface, unless it was handed over.
func (t *TUN) Close() error {
	err := t.dev.Close()
	<-t.done
	return err
}

// A Tap sees all that passes between line and cipher. It must not wait, nor call the
// device for anything but Inject: the device may be waiting for it.
type Tap interface {
	// Out sees a batch from the line on its way to a peer. A size set to 0 drops
	// that packet. Calls do not overlap.
	Out(bufs [][]byte, sizes []int, offset int)
	// In sees a batch from one peer on its way to the line and gives those that go
	// on. Calls for different peers overlap.
	In(bufs [][]byte, offset int) [][]byte
	// Full says that nothing should be read from the line now: what waits there slows
	// down who sends. It is asked again when something is injected (G5).
	Full() bool
}

// pass is a tap that lets all pass.
type pass struct{}

func (pass) Out([][]byte, []int, int)         {}
func (pass) In(bufs [][]byte, _ int) [][]byte { return bufs }
func (pass) Full() bool                       { return false }

// face is what a device sees of a line: tun.Device.
type face struct {
	line   Line
	tap    Tap
	events chan tun.Event
	closed atomic.Bool
	stir   chan struct{} // for a Read that waits while the tap is full

	some    atomic.Bool // waiting is not empty
	mu      sync.Mutex
	waiting [][]byte // injected, to be sealed next
	held    int      // its bytes
}

// maxWaiting bounds the bytes that are injected and did not leave yet, with what each
// packet costs beside its own; more is lost.
const (
	maxWaiting = 8 << 20
	perWaiting = 64
)

func newFace(line Line, tap Tap) *face {
	if tap == nil {
		tap = pass{}
	}
	return &face{line: line, tap: tap, events: make(chan tun.Event), stir: make(chan struct{}, 1)}
}

// inject puts packets before those of the line (G4). It keeps them. The result is
// how many there was room for.
func (f *face) inject(pkts [][]byte) int {
	f.mu.Lock()
	n, idle := 0, len(f.waiting) == 0
	for _, p := range pkts {
		if f.held+len(p)+perWaiting > maxWaiting {
			break
		}
		f.waiting, f.held = append(f.waiting, p), f.held+len(p)+perWaiting
		n++
	}
	f.some.Store(len(f.waiting) > 0)
	f.mu.Unlock()
	if idle && n > 0 { // else somebody woke it who has not been seen to yet
		f.wake()
	}
	return n
}

// wake makes a Read look again, whatever it waits for.
func (f *face) wake() {
	select {
	case f.stir <- struct{}{}:
	default:
	}
	f.line.Wake()
}

func (f *face) take(bufs [][]byte, sizes []int, offset int) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n < len(bufs) && n < len(f.waiting) {
		sizes[n] = copy(bufs[n][offset:], f.waiting[n])
		f.held -= len(f.waiting[n]) + perWaiting
		f.waiting[n] = nil
		n++
	}
	f.waiting = f.waiting[n:]
	if len(f.waiting) == 0 {
		f.waiting = nil
		f.some.Store(false)
	}
	return n
}

func (f *face) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		if f.closed.Load() {
			return 0, os.ErrClosed
		}
		if f.some.Load() {
			if n := f.take(bufs, sizes, offset); n > 0 {
				return n, nil
			}
		}
		if f.tap.Full() {
			<-f.stir // an injection, or Close
			continue
		}
		n, err := f.line.Read(bufs, sizes, offset)
		if n > 0 && !f.closed.Load() {
			f.tap.Out(bufs[:n], sizes[:n], offset)
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func (f *face) Write(bufs [][]byte, offset int) (int, error) {
	if f.closed.Load() {
		return 0, nil
	}
	if bufs = f.tap.In(bufs, offset); len(bufs) == 0 {
		return 0, nil
	}
	return f.line.Write(bufs, offset)
}

// Close leaves the line to the next device (G3).
func (f *face) Close() error {
	if !f.closed.Swap(true) {
		close(f.events)
		f.wake()
	}
	return nil
}

func (f *face) File() *os.File           { return nil }
func (f *face) MTU() (int, error)        { return f.line.MTU(), nil }
func (f *face) Name() (string, error)    { return "top", nil }
func (f *face) Events() <-chan tun.Event { return f.events }
func (f *face) BatchSize() int           { return f.line.BatchSize() }
