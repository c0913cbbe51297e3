package netcfg

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

const canary = "CANARY"

// A probe tries to get something out, in one way. What it gets for an answer does
// not matter: the cable tells.
type probe struct {
	name string
	send func() error
	seen func(packet) bool
}

// dialUDP makes a socket with some settings.
func dialUDP(to string, set func(fd int) error) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if set != nil {
			_ = c.Control(func(fd uintptr) { err = set(int(fd)) })
		}
		return err
	}}
	return d.DialContext(context.Background(), "udp", to)
}

// udp sends a datagram.
func udp(to string, set func(fd int) error) error {
	c, err := dialUDP(to, set)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(canary))
	return err
}

// syn begins a TCP connection and does not wait for it.
func syn(to string) error {
	ap := netip.MustParseAddrPort(to)
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()})
	if ap.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err = unix.Connect(fd, sa); err == unix.EINPROGRESS {
		return nil
	}
	return err
}

// raw sends a whole IPv4 header of one's own, with any source.
func raw(to string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	a := netip.MustParseAddr(to).As4()
	b := make([]byte, 28, 64)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(b[12:], []byte{192, 168, 7, 2})
	copy(b[16:], a[:])
	binary.BigEndian.PutUint16(b[20:], 7777)
	binary.BigEndian.PutUint16(b[22:], 7779)
	b = append(b, canary...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(canary)))
	return unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: a})
}

// echo asks for an ICMP answer.
func echo(to string) error {
	a := netip.MustParseAddr(to)
	family, protocol, kind, sa := unix.AF_INET6, unix.IPPROTO_ICMPV6, byte(128), unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16()})
	if a.Is4() {
		family, protocol, kind, sa = unix.AF_INET, unix.IPPROTO_ICMP, 8, &unix.SockaddrInet4{Addr: a.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := append([]byte{kind, 0, 0, 0, 0, 1, 0, 1}, canary...)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	return unix.Sendto(fd, b, 0, sa)
}

func withMark(m int) func(int) error {
	return func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, m) }
}

func onDevice(name string) func(int) error {
	return func(fd int) error { return unix.BindToDevice(fd, name) }
}

func onSource(ip ...byte) func(int) error {
	return func(fd int) error {
		if len(ip) == 16 {
			return unix.Bind(fd, &unix.SockaddrInet6{Addr: [16]byte(ip)})
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(ip)})
	}
}

func toward4(to string) func(packet) bool {
	ap := netip.MustParseAddrPort(to)
	return func(p packet) bool { return p.dst == ap }
}

// at names the port beside the address, so that a test opens none.
func at(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// probes are the ways out that a full tunnel with a kill switch closes.
func probes() (all []probe) {
	datagram := func(name, host string, port int, set func(int) error) {
		to := at(host, port)
		all = append(all, probe{name, func() error { return udp(to, set) }, toward4(to)})
	}
	datagram("udp", publicHost, 7777, nil)
	datagram("udp by IPv6", public6, 7777, nil)
	datagram("local network", lanHost, 7777, nil)
	datagram("local network by IPv6", lan6, 7777, nil)
	datagram("question to a public resolver", publicHost, 53, nil)
	datagram("question to a public resolver by IPv6", public6, 53, nil)
	datagram("question to the router", lanHost, 53, nil)
	datagram("question to the router by IPv6", lan6, 53, nil)
	datagram("question bound to the interface", lanHost, 53, onDevice("eth0"))
	datagram("bound to the interface", publicHost, 7778, onDevice("eth0"))
	datagram("bound to the interface by IPv6", public6, 7778, onDevice("eth0"))
	datagram("bound to the source", publicHost, 7780, onSource(192, 168, 7, 2))
	datagram("marked, elsewhere", publicHost, 7781, withMark(mark))
	datagram("marked, elsewhere by IPv6", public6, 7781, withMark(mark))
	datagram("marked, another port", endpoint.Addr().String(), 7782, withMark(mark))
	datagram("marked, a question", lanHost, 53, withMark(mark))
	datagram("another mark", publicHost, 7783, withMark(mark+1))
	datagram("mDNS", "224.0.0.251", 5353, onDevice("eth0"))
	datagram("mDNS by IPv6", "ff02::fb", 5353, onDevice("eth0"))
	for _, to := range []string{at(publicHost, 7784), at(public6, 7784), at(publicHost, 53), at(lanHost, 853)} {
		all = append(all, probe{"tcp " + to, func() error { return syn(to) }, toward4(to)})
	}
	for _, to := range []string{publicHost, public6} {
		kind := map[bool]uint16{true: 8, false: 128}[netip.MustParseAddr(to).Is4()]
		want := netip.AddrPortFrom(netip.MustParseAddr(to), kind)
		all = append(all, probe{"echo " + to, func() error { return echo(to) }, func(p packet) bool { return p.dst == want }})
	}
	return append(all, probe{"a header of its own", func() error { return raw(publicHost) }, toward4(at(publicHost, 7779))})
}

// storm sends every probe, again and again, until the function that it returns is
// called, which waits for the last.
func (w *world) storm() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.client.try(func() error {
			for ctx.Err() == nil {
				for _, p := range probes() {
					_ = p.send()
				}
			}
			return nil
		})
	}()
	return func() { cancel(); <-done }
}

// flush waits until the cable has shown everything that was sent so far: a packet
// that may leave comes last.
func (w *world) flush(to netip.AddrPort) int {
	w.t.Helper()
	from := w.cable.len()
	w.client.in(func() error { return udp(to.String(), withMark(mark)) })
	return w.cable.wait(from, "outer packet to "+to.String(), func(p packet) bool { return p.dst == to })
}

// outer allows what bears the mark to the endpoints.
func outer(endpoints ...netip.AddrPort) func(packet) bool {
	return func(p packet) bool {
		for _, e := range endpoints {
			if p.dst == e {
				return true
			}
		}
		return false
	}
}

// closed sends every probe and wants none outside.
func (w *world) closed(when string) {
	w.t.Helper()
	from := w.flush(endpoint)
	w.client.in(func() error {
		for _, p := range probes() {
			_ = p.send()
		}
		return nil
	})
	if found := w.cable.leaks(from, w.flush(endpoint), outer(endpoint, endpoint6)); len(found) > 0 {
		w.t.Errorf("%s: %q", when, found)
	}
}

// open sends every probe and wants each outside: what the captures look for can
// be seen.
func (w *world) open(when string) {
	w.t.Helper()
	for _, p := range probes() {
		from := w.cable.len()
		w.client.in(func() error {
			if err := p.send(); err != nil {
				return fmt.Errorf("%s: %s: %w", when, p.name, err)
			}
			return nil
		})
		w.cable.wait(from, when+": "+p.name, p.seen)
	}
}
