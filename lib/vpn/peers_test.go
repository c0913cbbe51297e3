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
	"slices"
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
	"top/lib/session"
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
// 200 that pay carry together beside one. Run it with -benchtime 1x.
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
	ctx, cancel := context.WithCancel(b.Context())
	var paying sync.WaitGroup
	defer paying.Wait()
	defer cancel()
	var all []*rider
	for range active {
		r := alice.ride(x)
		r.begun(r.channel(1000 * top.One))
		paying.Go(func() { r.pay(ctx) })
		all = append(all, r)
	}
	var one, many, ratio []float64
	for range 7 {
		one = append(one, sink.rate(b, all[:1], ln.Addr().String()))
		many = append(many, sink.rate(b, all, ln.Addr().String()))
		ratio = append(ratio, 100*many[len(many)-1]/one[len(one)-1])
	}
	slices.Sort(ratio)
	b.Logf("upload, Mbit/s: one peer %.0f, %d together %.0f, in turn %.0f %%, with %d idle beside; %d MiB resident", one, active, many, ratio[len(ratio)/2], idle, resident(b, pid))
}

// pay pays for what a rider sends until ctx ends, as a purse does and with the key at
// hand.
func (r *rider) pay(ctx context.Context) {
	r.p.gate.limit.Store(firstCredit)
	beat := time.NewTicker(tickEvery)
	defer beat.Stop()
	var up, next, down, got uint64
	for {
		flush := false
		select {
		case <-ctx.Done():
			return
		case b := <-r.t.words:
			var s state
			var k taken
			switch {
			case b[0] == mState && s.decode(b) == nil && s.Session == r.id:
				up = max(up, s.Up)
				if s.Down > down {
					down, got = s.Down, min(r.p.got.Load(), s.Down)
				}
				r.t.release(r.p, r.p.gate.raise(s.Limit-min(s.Limit, s.Down)))
			case b[0] == mTaken && k.decode(b) == nil && r.payer.Acknowledged(k.Seq) == nil:
				r.t.say(ticking{Session: r.id, Ticks: r.payer.Repeat()}.encode())
			}
		case <-r.t.moved:
		case <-beat.C:
			flush = true
		}
		sent := r.p.sent.Load()
		tick, due := r.payer.Served(r.id, (min(sent, up)+got)/unit)
		if !due && flush {
			tick, due = r.payer.Flush(r.id)
		}
		if m := (ticking{Session: r.id, Up: sent}); due || flush || sent >= next {
			if due {
				m.Ticks = []session.Tick{tick}
			}
			if flush {
				m.Ticks = r.payer.Repeat()
			}
			next = sent + min(max(sent/16, unit), tickUnits*unit/2)
			r.p.ask.Store(next)
			r.t.say(m.encode())
		}
		n, due, err := r.payer.Renew(r.m.clock())
		if err != nil {
			return // its channel is used up
		}
		if due && n.Voucher.Sign(r.m.account.Signer()) == nil && r.payer.Signed(n.Voucher) == nil || flush {
			if n, waits := r.payer.Waiting(); waits {
				r.t.say(told{mVoucher, r.id, n.Encode()}.encode())
			}
		}
	}
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

// rate is what riders send there together, Mbit/s. All are connected before the first
// sends: a handshake beside two hundred that send takes as long as they let it.
func (s *sink) rate(t testing.TB, all []*rider, to string) float64 {
	t.Helper()
	const warm, lasts = 2 * time.Second, 3 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	at := netip.AddrPortFrom(host4(), netip.MustParseAddrPort(to).Port()).String()
	total := func() int { s.mu.Lock(); defer s.mu.Unlock(); return s.got }
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
		for last := -1; last != total(); { // what they hold goes out yet
			last = total()
			<-time.After(time.Second)
		}
	}()
	for _, r := range all {
		c, err := r.stack.DialContext(ctx, "tcp", at)
		must(t, err)
		conns = append(conns, c)
	}
	var done sync.WaitGroup
	defer done.Wait()
	for _, c := range conns {
		c.SetWriteDeadline(time.Now().Add(warm + lasts))
		done.Go(func() {
			for b := make([]byte, 64<<10); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		})
	}
	<-time.After(warm)
	before := total()
	<-time.After(lasts)
	return float64(total()-before) * 8 / lasts.Seconds() / 1e6
}
