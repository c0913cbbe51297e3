package vpn

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/policy"
	"top/lib/sock"
	"top/lib/top"
)

// TestMain is an exit in a process of its own where BenchmarkPeers asks for one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TOP_BENCH_EXIT"); dir != "" {
		if err := exitAlone(home.Dir(dir), os.Getenv("TOP_BENCH_KEY")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// exitAlone runs an exit until its standard input ends, and prints its port.
func exitAlone(dir home.Dir, seed string) error {
	key, err := keys.ParseSeed(seed)
	if err != nil {
		return err
	}
	p, err := policy.Parse("class full")
	if err != nil {
		return err
	}
	path, err := dir.Sock("chain")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var x *Exit
	x, err = NewExit(ExitConfig{Home: dir, Chain: api.NewChain(sock.Dial(path, "chain")), NodeKey: key, Host: "127.0.0.1", Policy: p, AllowLoopback: true, Peers: 2048, Ready: func() error {
		fmt.Println(x.dev.Port())
		return nil
	}})
	if err != nil {
		cancel()
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return x.Run(ctx)
}

// BenchmarkPeers is what 1,000 idle peers cost an exit in a process of its own, and what
// 200 clients carry together beside one. Run it with -benchtime 1x.
func BenchmarkPeers(b *testing.B) {
	const idle, active = 1000, 200
	w := newWorld(b)
	x := w.member("exit")
	pid := x.alone()
	before := resident(b, pid)
	alice := w.member("alice")
	for range idle {
		r := alice.ride(x)
		r.begun(r.channel(top.One))
	}
	b.Logf("%d idle peers that pay: %d MiB resident, %d MiB without any", idle, resident(b, pid), before)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer ln.Close()
	sink := &sink{}
	go sink.run(ln)
	var all []*member
	for i := range active {
		all = append(all, w.member("client"+strconv.Itoa(i)).up(via(x)))
	}
	var one, many []float64
	for range 3 {
		one = append(one, sink.rate(b, all[:1], ln.Addr().String()))
		many = append(many, sink.rate(b, all, ln.Addr().String()))
	}
	b.Logf("upload: one client %.0f Mbit/s, %d together %.0f, with %d idle beside; %d MiB resident", one, active, many, idle, resident(b, pid))
}

// alone runs an exit in a process of its own, registers it, and gives its process.
func (m *member) alone() int {
	t := m.w.t
	t.Helper()
	cmd := exec.Command(os.Args[0])
	seed := m.node.Seed()
	cmd.Env = append(os.Environ(), "TOP_BENCH_EXIT="+string(m.home), "TOP_BENCH_KEY="+hex.EncodeToString(seed[:]))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	a := Address{Carry: Plain, Host: "127.0.0.1", Port: strings.TrimSpace(line), Key: KeyOf(m.node).Public(), Class: "full", Own: true}
	m.w.set(func() {
		m.w.nodes[m.id()] = api.Node{
			Type: "node", Node: m.id(), Exists: true, Owner: m.address(), Name: m.name, Addrs: []string{a.String()},
			Offers: []api.Offer{{Service: Service, Unit: Unit, Price: price, Window: 1024}},
		}
	})
	return cmd.Process.Pid
}

// resident is a process's memory, MiB.
func resident(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return kib >> 10
}

// A sink reads all that comes.
type sink struct {
	mu  sync.Mutex
	got int
}

func (s *sink) run(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for b := make([]byte, 64<<10); ; {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				s.mu.Lock()
				s.got += n
				s.mu.Unlock()
			}
		}()
	}
}

// rate is what clients send there together, Mbit/s.
func (s *sink) rate(t testing.TB, all []*member, to string) float64 {
	t.Helper()
	var done sync.WaitGroup
	var conns []net.Conn
	at := netip.MustParseAddrPort(to)
	for _, m := range all {
		c, err := m.client.stack.DialContext(t.Context(), "tcp", netip.AddrPortFrom(host4(), at.Port()).String())
		must(t, err)
		conns = append(conns, c)
		done.Go(func() {
			for b := make([]byte, 64<<10); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		})
	}
	const lasts = 5 * time.Second
	total := func() int { s.mu.Lock(); defer s.mu.Unlock(); return s.got }
	<-time.After(time.Second)
	before := total()
	<-time.After(lasts)
	came := total() - before
	for _, c := range conns {
		c.Close()
	}
	done.Wait()
	return float64(came) * 8 / lasts.Seconds() / 1e6
}
