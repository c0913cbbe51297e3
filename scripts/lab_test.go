package scripts

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A lab is network namespaces of this machine: a client and an exit of plain
// wireguard-go (a1, b1), the same of a paid tunnel (a2, b2), and one target (c) behind
// both exits. Sources and sinks are sockets of this process, opened there.
type lab struct {
	*localnet
	b      *testing.B
	prefix string    // of the namespaces' names, and of the tunnels' in them
	keys   [2]string // of plain wireguard-go: files
	public [2]string
	plain  [2]*exec.Cmd // client, exit
	paid   [2]*exec.Cmd
}

const target = "9.9.9.9" // where the tunnels lead: no address of this machine's

// newLab needs root, and ip, nft and wg; it says so.
func newLab(b *testing.B) *lab {
	b.Helper()
	l := &lab{localnet: begin(b, os.Getenv("TOP_FAULT_LOAD")), b: b, prefix: fmt.Sprintf("tl%d", os.Getpid()%100000)}
	for _, ns := range []string{"a1", "b1", "a2", "b2", "c"} {
		l.sh("", "ip netns add "+l.prefix+ns)
		b.Cleanup(func() { exec.Command("ip", "netns", "del", l.prefix+ns).Run() })
		l.sh(ns, "ip link set lo up; sysctl -qw 'net.ipv4.tcp_rmem=4096 131072 67108864' 'net.ipv4.tcp_wmem=4096 65536 67108864' net.ipv4.ip_forward=1 net.ipv4.tcp_slow_start_after_idle=0")
	}
	for i := 1; i <= 2; i++ {
		l.sh("", "ip link add v netns %a@ type veth peer name v netns %b@; ip link add w netns %b@ type veth peer name w@ netns %c", "%", l.prefix, "@", fmt.Sprint(i))
		l.sh("a@", "ip addr add 10.9.@.1/24 dev v; ip link set v up; ip route add default via 10.9.@.2", "@", fmt.Sprint(i))
		l.sh("b@", "ip addr add 10.9.@.2/24 dev v; ip link set v up; ip addr add 11.9.@.1/24 dev w; ip link set w up; ip route add default via 11.9.@.2", "@", fmt.Sprint(i))
		l.sh("c", "ip addr add 11.9.@.2/24 dev w@; ip link set w@ up", "@", fmt.Sprint(i))
	}
	l.sh("c", "ip addr add "+target+"/32 dev lo")
	l.stock()
	l.sell()
	return l
}

// sh runs a line of shell in a namespace, with words replaced in both; "" is this
// process's.
func (l *lab) sh(ns, line string, words ...string) {
	l.b.Helper()
	r := strings.NewReplacer(words...)
	cmd := exec.Command("sh", "-ec", r.Replace(line))
	if ns != "" {
		cmd = exec.Command("ip", "netns", "exec", l.prefix+r.Replace(ns), "sh", "-ec", r.Replace(line))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		l.b.Fatalf("%v: %v: %s(needs root, ip, nft and wg)", cmd.Args, err, out)
	}
}

// stock starts plain wireguard-go in a1 and b1.
func (l *lab) stock() {
	l.b.Helper()
	bin := filepath.Join(l.dir, "wireguard-go")
	cmd := exec.Command("go", "build", "-o", bin, "golang.zx2c4.com/wireguard")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		l.b.Fatalf("%v: %s", err, out)
	}
	for i, ns := range []string{"a1", "b1"} {
		l.keys[i] = filepath.Join(l.dir, ns+".key")
		l.sh("", "umask 077; wg genkey >"+l.keys[i]+"; wg pubkey <"+l.keys[i]+" >"+l.keys[i]+".pub")
		b, err := os.ReadFile(l.keys[i] + ".pub")
		if err != nil {
			l.b.Fatal(err)
		}
		l.public[i] = strings.TrimSpace(string(b))
		cmd := exec.Command("ip", "netns", "exec", l.prefix+ns, bin, "-f", l.prefix+ns)
		cmd.Env = append(os.Environ(), "LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1")
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			l.b.Fatal(err)
		}
		l.plain[i] = cmd
		l.b.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }) // it takes its socket away
		l.eventually("wireguard-go answers", func() bool {
			return exec.Command("ip", "netns", "exec", l.prefix+ns, "wg", "show", l.prefix+ns).Run() == nil
		})
	}
	l.sh("b1", "wg set @ private-key "+l.keys[1]+" listen-port 5555 peer "+l.public[0]+" allowed-ips 100.65.0.2/32; ip addr add 100.65.0.1/24 dev @; ip link set @ mtu 1420 up; "+
		"nft add table ip nat; nft 'add chain ip nat post { type nat hook postrouting priority 100; }'; nft add rule ip nat post oifname w masquerade", "@", l.prefix+"b1")
	l.sh("a1", "wg set @ private-key "+l.keys[0]+" peer "+l.public[1]+" endpoint 10.9.1.2:5555 allowed-ips 0.0.0.0/0; ip addr add 100.65.0.2/24 dev @; ip link set @ mtu 1420 up; ip route add "+target+"/32 dev @", "@", l.prefix+"a1")
}

// tool starts a daemon of the localnet in a namespace.
func (l *lab) tool(ns, who string, args ...string) *exec.Cmd {
	l.b.Helper()
	cmd := l.command(who, "top-vpn", append(args, "--ready-fd", "3", "--quiet")...)
	cmd.Args = append([]string{"ip", "netns", "exec", l.prefix + ns, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = l.which("ip")
	return l.ready(cmd)
}

func (l *lab) which(name string) string {
	l.b.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		l.b.Fatal(err)
	}
	return path
}

// sell runs an exit of Bob's in b2, and registers it.
func (l *lab) sell() {
	l.b.Helper()
	l.paid[1] = l.tool("b2", "bob", "serve", "--provide", "--listen", "10.9.2.2:5555", "--hidden", "10.9.2.2:443", "--tun", l.prefix+"b2")
	s, err := l.vpn("bob").Status(l.b.Context())
	if err != nil {
		l.b.Fatal(err)
	}
	args := []string{"register", "--quiet", "--name", "bob", "--offer", "service=vpn,unit=64KiB,price=0.000001,window=4096"}
	for _, a := range s.Addrs {
		args = append(args, "--addr", a)
	}
	l.run("bob", "top-wallet", args...)
}

// up runs Alice's client in a2, in place of the one that runs, and gives how long it
// took until it carried.
func (l *lab) up(via string, more ...string) time.Duration {
	l.b.Helper()
	l.down2()
	began := time.Now()
	l.paid[0] = l.tool("a2", "alice", append([]string{"up", "--via", via, "--tun", l.prefix + "a2", "--include", target + "/32", "--no-kill-switch"}, more...)...)
	return time.Since(began)
}

// down2 ends Alice's client.
func (l *lab) down2() {
	if cmd := l.paid[0]; cmd != nil && cmd.ProcessState == nil {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}
}

// in runs fn on a thread that is in a namespace: sockets that it opens stay there. The
// thread comes back, since daemons end with the thread that started them (Pdeathsig).
func (l *lab) in(ns string, fn func() error) {
	l.b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		l.b.Fatal(err)
	}
	defer here.Close()
	there, err := os.Open("/run/netns/" + l.prefix + ns)
	if err != nil {
		l.b.Fatal(err)
	}
	defer there.Close()
	if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
		err = fn()
		if back := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); back != nil {
			panic(back)
		}
	}
	if err != nil {
		l.b.Fatalf("in %s: %v", ns, err)
	}
}

// pair is a TCP connection from a client's namespace to the target: the client's end,
// the target's, and when it was dialled.
func (l *lab) pair(ns string) (near, far *net.TCPConn, began time.Time) {
	l.b.Helper()
	var ln net.Listener
	l.in("c", func() (err error) { ln, err = net.Listen("tcp", target+":0"); return err })
	defer ln.Close()
	began = time.Now()
	l.in(ns, func() error {
		c, err := net.DialTimeout("tcp", ln.Addr().String(), 10*time.Second)
		if err == nil {
			near = c.(*net.TCPConn)
		}
		return err
	})
	c, err := ln.Accept()
	if err != nil {
		l.b.Fatal(err)
	}
	return near, c.(*net.TCPConn), began
}

// A flow is what bulk TCP came to.
type flow struct {
	mbit  float64
	first time.Duration // from the call until the first byte was there
	gap   time.Duration // the longest without a byte
}

// pump sends from one connection to the other, and measures after a time to warm up.
func pump(src, dst net.Conn, began time.Time, warm, lasts time.Duration) (f flow) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 128<<10); ; {
			if _, err := src.Write(b); err != nil {
				return
			}
		}
	}()
	b := make([]byte, 256<<10)
	start := time.Now()
	dst.SetReadDeadline(start.Add(warm + lasts))
	total, last := 0, began
	for {
		n, err := dst.Read(b)
		if err != nil {
			break
		}
		now := time.Now()
		if f.first == 0 {
			f.first = now.Sub(began)
		}
		f.gap, last = max(f.gap, now.Sub(last)), now
		if now.Sub(start) >= warm {
			total += n
		}
	}
	f.gap = max(f.gap, time.Since(last))
	f.mbit = float64(total) * 8 / lasts.Seconds() / 1e6
	src.Close()
	dst.Close()
	<-done
	return f
}

// A stream is a connection that sends at some times, and not at others.
type stream struct {
	src, dst net.Conn
	b        testing.TB
	got      atomic.Int64
	sent     int64
	done     chan struct{}
}

// stream is one from (or to) a client's namespace.
func (l *lab) stream(ns string, down bool) *stream {
	l.b.Helper()
	near, far, _ := l.pair(ns)
	s := &stream{src: near, dst: far, b: l.b, done: make(chan struct{})}
	if down {
		s.src, s.dst = far, near
	}
	go func() {
		defer close(s.done)
		for b := make([]byte, 256<<10); ; {
			n, err := s.dst.Read(b)
			s.got.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	return s
}

// run sends for a time, and says what came and how long that took.
func (s *stream) run(lasts time.Duration) (bytes float64, took time.Duration) {
	s.b.Helper()
	began, before := time.Now(), s.sent
	s.src.SetWriteDeadline(began.Add(20 * time.Second))
	for b := make([]byte, 128<<10); time.Since(began) < lasts; {
		n, err := s.src.Write(b)
		if s.sent += int64(n); err != nil {
			s.b.Fatal(err)
		}
	}
	for s.got.Load() < s.sent {
		if <-time.After(200 * time.Microsecond); time.Since(began) > 20*time.Second {
			s.b.Fatalf("%d of %d bytes came", s.got.Load(), s.sent)
		}
	}
	return float64(s.sent - before), time.Since(began)
}

func (s *stream) close() {
	s.src.Close()
	s.dst.Close()
	<-s.done
}

// bulk is one stream from (or to) a client's namespace.
func (l *lab) bulk(ns string, down bool, warm, lasts time.Duration) flow {
	l.b.Helper()
	near, far, began := l.pair(ns)
	if down {
		return pump(far, near, began, warm, lasts)
	}
	return pump(near, far, began, warm, lasts)
}

// moved sends so many bytes over a new connection and gives what the kernels at both
// ends counted of it in IPv4 packets: payload once, and a header for every segment as
// it is on the wire, acknowledgements among them. What is sent again counts once.
func (l *lab) moved(ns string, down bool, n int64) (bytes float64) {
	l.b.Helper()
	src, dst, _ := l.pair(ns)
	if down {
		src, dst = dst, src
	}
	defer src.Close()
	defer dst.Close()
	go func() {
		io.CopyN(src, zeros{}, n)
		src.CloseWrite()
	}()
	if got, err := io.Copy(io.Discard, dst); err != nil || got != n {
		l.b.Fatalf("%d of %d bytes came: %v", got, n, err)
	}
	for _, c := range []*net.TCPConn{src, dst} {
		raw, err := c.SyscallConn()
		if err != nil {
			l.b.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				l.b.Error(err)
				return
			}
			// IPv4 20, TCP 20, timestamps 12.
			bytes += float64(i.Bytes_sent-i.Bytes_retrans) + 52*float64(i.Segs_out-i.Total_retrans)
		})
	}
	return bytes
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// packets is a UDP socket in c with room, and one in a client's namespace that leads
// there.
func (l *lab) packets(ns string) (near, far *net.UDPConn) {
	l.b.Helper()
	l.in("c", func() (err error) {
		far, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(target)})
		return errors.Join(err, roomy(far))
	})
	l.in(ns, func() (err error) {
		near, err = net.DialUDP("udp4", nil, far.LocalAddr().(*net.UDPAddr))
		return err
	})
	return near, far
}

// roomy gives a socket buffers that hold what comes while its reader does not run.
func roomy(c *net.UDPConn) (err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20))
	})
	return err
}

// datagram is what a flood is made of, in bytes.
const datagram = 1350

// flood offers datagrams at a rate, in Mbit/s, 0 as fast as it can, and gives the rate
// at which they came and that at which they were offered.
func (l *lab) flood(ns string, rate float64, lasts time.Duration) (came, offered float64) {
	l.b.Helper()
	near, far := l.packets(ns)
	var got atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 2048); ; {
			n, err := far.Read(b)
			if err != nil {
				return
			}
			got.Add(int64(n))
		}
	}()
	b := make([]byte, datagram)
	began, sent := time.Now(), 0
	for e := time.Since(began); e < lasts; e = time.Since(began) {
		due := 64 * datagram
		if rate > 0 {
			if due = int(rate*1e6/8*e.Seconds()) - sent; due < datagram {
				<-time.After(100 * time.Microsecond)
			}
		}
		for ; due >= datagram; due -= datagram {
			if _, err := near.Write(b); err == nil {
				sent += datagram
			}
		}
	}
	<-time.After(200 * time.Millisecond)
	came = float64(got.Load())
	near.Close()
	far.Close()
	<-done
	per := 8 / lasts.Seconds() / 1e6
	return came * per, float64(sent) * per
}

// echo is the times of so many round trips of 64 bytes, one after the other.
func (l *lab) echo(ns string, n int) (all []time.Duration) {
	l.b.Helper()
	near, far := l.packets(ns)
	defer near.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 2048); ; {
			n, from, err := far.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			far.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	b := make([]byte, 64)
	for range n {
		began := time.Now()
		near.SetReadDeadline(began.Add(time.Second))
		near.Write(b)
		if _, err := near.Read(b); err == nil {
			all = append(all, time.Since(began))
		}
	}
	far.Close()
	<-done
	return all
}

// late is a socket in an exit's namespace that passes datagrams to its WireGuard port
// and back, each way later by half a round trip. It takes and gives whole trains of
// datagrams (UDP_GRO, UDP_SEGMENT), so that it costs little.
func (l *lab) late(ns, host string, rtt time.Duration) netip.AddrPort {
	l.b.Helper()
	var front, back *net.UDPConn
	l.in(ns, func() (err error) {
		ip := net.ParseIP(host)
		front, err = net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
		if err == nil {
			back, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: ip, Port: 5555})
		}
		return errors.Join(err, roomy(front), roomy(back))
	})
	l.b.Cleanup(func() { front.Close(); back.Close() })
	for _, c := range []*net.UDPConn{front, back} {
		raw, err := c.SyscallConn()
		if err != nil {
			l.b.Fatal(err)
		}
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) })
	}
	var client atomic.Pointer[netip.AddrPort]
	go delay(front, rtt/2, func(from netip.AddrPort) { client.Store(&from) }, func(b, oob []byte) { back.WriteMsgUDP(b, oob, nil) })
	go delay(back, rtt/2, func(netip.AddrPort) {}, func(b, oob []byte) {
		if to := client.Load(); to != nil {
			front.WriteMsgUDPAddrPort(b, oob, *to)
		}
	})
	return front.LocalAddr().(*net.UDPAddr).AddrPort()
}

// delay hands on what comes to a socket, later, until it is closed.
func delay(c *net.UDPConn, d time.Duration, from func(netip.AddrPort), send func(b, oob []byte)) {
	type train struct {
		due    time.Time
		b, oob []byte
	}
	under := make(chan train, 1<<15)
	defer close(under)
	go func() {
		for t := range under {
			if d := time.Until(t.due); d > 0 {
				<-time.After(d)
			}
			send(t.b, t.oob)
		}
	}()
	b, oob := make([]byte, 1<<16), make([]byte, 64)
	for {
		n, k, _, at, err := c.ReadMsgUDPAddrPort(b, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		from(at)
		t := train{due: time.Now().Add(d), b: bytes.Clone(b[:n])}
		if all, err := unix.ParseSocketControlMessage(oob[:k]); err == nil {
			for _, m := range all {
				if m.Header.Level == unix.SOL_UDP && m.Header.Type == unix.UDP_GRO && len(m.Data) >= 4 {
					if size := binary.NativeEndian.Uint32(m.Data); int(size) < n {
						t.oob = segments(uint16(size))
					}
				}
			}
		}
		select {
		case under <- t:
		default: // a full line
		}
	}
}

// segments is the control message that has the kernel cut what is sent (udp(7)).
func segments(size uint16) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(b[8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(b[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(b[16:], size)
	return b
}

// cpu is what processes used so far, seconds.
func (l *lab) cpu(all ...*exec.Cmd) (sum float64) {
	l.b.Helper()
	for _, c := range all {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
		if err != nil {
			l.b.Fatal(err)
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
		var user, sys float64
		fmt.Sscan(f[11], &user)
		fmt.Sscan(f[12], &sys)
		sum += (user + sys) / 100
	}
	return sum
}

// median is the middle one.
func median[V float64 | time.Duration](all []V) V {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}
