package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/load"
	"top/lib/sock"
	"top/lib/tool"
	"top/lib/top"
)

// A benchNet is the network of a run.
type benchNet struct {
	local
	self  string    // this program
	root  top.ID    // seed of all keys; account -1 is the one with the money
	group *children // nil when it ran already
	socks []string
	nodes []*api.Chain
	index uint32 // of account 0
}

func startBench(ctx context.Context, c *tool.Call, dir string, vals int) (*benchNet, error) {
	net := &benchNet{local: local{dir: dir}}
	rand.Read(net.root[:])
	for i := range vals {
		net.vals = append(net.vals, home.Dir(filepath.Join(dir, fmt.Sprintf("val%d", i))))
	}
	root := top.Address(load.Key(net.root, -1).Public())
	begin := beginning{funds: []string{fmt.Sprintf("%s=%d", root, 5_000_000_000)}, stakes: []string{root.String() + "=1000"}}
	if err := net.prepare(begin); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	net.self, net.group = self, &children{self: self, say: c.Info, ended: make(chan error, 1)}
	for _, v := range net.vals {
		if err := net.group.start(v); err != nil {
			net.group.stop()
			return nil, err
		}
		path, err := v.Sock("chain")
		if err != nil {
			net.group.stop()
			return nil, err
		}
		net.socks = append(net.socks, path)
		net.nodes = append(net.nodes, api.NewChain(sock.Dial(path, "top-chain serve")))
	}
	if err := net.await(ctx, net.vals, net.group.ended); err != nil {
		net.group.stop()
		return nil, err
	}
	return net, nil
}

// fund makes the accounts, with the same money each.
func (n *benchNet) fund(ctx context.Context, c *tool.Call, accounts int) error {
	key := load.Key(n.root, -1)
	from, each, err := n.purse(ctx, accounts)
	if err != nil || each == 0 {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	made := make(chan *ledger.Batch)
	var making sync.WaitGroup
	defer making.Wait()
	defer cancel()
	making.Go(func() {
		defer close(made)
		for first := 0; first < accounts; first += createBatch {
			select {
			case made <- n.newAccounts(first, min(createBatch, accounts-first), each):
			case <-ctx.Done():
				return
			}
		}
	})
	first, nonce := 0, uint64(from.Nonce)
	for b := range made {
		first, nonce = first+len(b.New), nonce+1
		t := ledger.Tx{Chain: n.chain, From: from.Index, Nonce: nonce, Expiry: uint64(time.Now().Add(time.Minute).Unix()), Body: b}
		if err := t.Sign(key.Signer()); err != nil {
			return err
		}
		s, err := n.nodes[0].Submit(ctx, t.Encode())
		if err != nil {
			return err
		}
		r, err := n.nodes[0].Tx(ctx, s.ID, time.Minute)
		if err == nil && !r.OK {
			err = top.Errorf(top.Kind(r.Error), "%s", r.Message)
		}
		if err != nil {
			return fmt.Errorf("make accounts: %w", err)
		}
		if accounts > createBatch {
			c.Info("%d accounts made", first)
		}
	}
	return n.placed(ctx, accounts)
}

// newAccounts is a batch that makes accounts from a number on. To draw their keys takes
// longest.
func (n *benchNet) newAccounts(first, count int, each top.Amount) *ledger.Batch {
	b := &ledger.Batch{New: make([]top.Address, count), Records: make([]ledger.Record, count)}
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < count; i += workers {
				b.New[i] = top.Address(load.Key(n.root, first+i).Public())
				b.Records[i] = ledger.Record{Index: uint32(i), Amount: each}
			}
		})
	}
	wg.Wait()
	return b
}

// purse is the account with the money, and what each payer is to have of it: nothing
// when they have enough from a run before.
func (n *benchNet) purse(ctx context.Context, accounts int) (from api.Account, each top.Amount, err error) {
	who := top.Address(load.Key(n.root, -1).Public())
	if from, err = n.nodes[0].Account(ctx, who); err != nil || n.group != nil {
		return from, min(benchFund, benchExtra*100/top.Amount(accounts)), err
	}
	first, err := n.nodes[0].Account(ctx, top.Address(load.Key(n.root, 0).Public()))
	if err != nil {
		return from, 0, err
	}
	if first.Exists && n.placed(ctx, accounts) == nil && first.Balance >= joinedLeast {
		return from, 0, nil
	}
	// The purse pays for making the accounts, its own first, and some fees.
	if need := joinedFund * top.Amount(accounts+1); from.Balance < need-joinedFund/2 {
		return from, 0, top.Errorf(top.Denied, "%d payers want %s TOP, and their purse has %s (pay it: top-wallet pay %s %s)", accounts, need, from.Balance, who, need-from.Balance)
	}
	return from, joinedFund, nil
}

// What each payer has on a network that ran already, and below what it gets it again.
const (
	joinedFund  = top.One
	joinedLeast = top.One / 4
)

// joinBench is a network that runs, by the homes of its nodes.
func joinBench(ctx context.Context, c *tool.Call, homes []string) (*benchNet, error) {
	net := &benchNet{}
	for _, h := range homes {
		dir, err := home.Of(h, c.Getenv)
		if err != nil {
			return nil, err
		}
		path, err := dir.Sock("chain")
		if err != nil {
			return nil, err
		}
		net.vals, net.socks = append(net.vals, dir), append(net.socks, path)
		net.nodes = append(net.nodes, api.NewChain(sock.Dial(path, "top-chain serve --home "+string(dir))))
	}
	s, err := net.nodes[0].Status(ctx)
	if err != nil {
		return nil, err
	}
	net.chain = s.Chain
	if net.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	path := cmp.Or(c.String("seed-file"), net.vals[0].Path("bench.seed"))
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		rand.Read(net.root[:])
		return net, home.WriteFile(path, []byte(net.root.String()+"\n"), 0o600)
	}
	if err == nil {
		net.root, err = top.ParseID(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return nil, top.Errorf(top.Invalid, "%s: %v (64 hex digits)", path, err)
	}
	return net, nil
}

// nonce is one that no payer has used.
func (n *benchNet) nonce(ctx context.Context, accounts int) (uint64, error) {
	last := top.Count(0)
	for i := 0; i < accounts && n.group == nil; i++ {
		a, err := n.nodes[i%len(n.nodes)].Account(ctx, top.Address(load.Key(n.root, i).Public()))
		if err != nil {
			return 0, err
		}
		last = max(last, a.Nonce)
	}
	return uint64(last) + 1, nil
}

// placed notes where the payers stand, which must be in a row.
func (n *benchNet) placed(ctx context.Context, accounts int) error {
	a, err := n.nodes[0].Account(ctx, top.Address(load.Key(n.root, 0).Public()))
	if err != nil {
		return err
	}
	last, err := n.nodes[0].Account(ctx, top.Address(load.Key(n.root, accounts-1).Public()))
	if err == nil && last.Index != a.Index+uint32(accounts)-1 {
		err = top.Errorf(top.Failed, "somebody else made accounts meanwhile (run it again, with another --seed-file)")
	}
	n.index = a.Index
	return err
}

// books is what the chain says of money at one time.
type books struct {
	held       top.Amount // by the payers in all, and by the source of their money
	burned     top.Amount
	feePerByte top.Amount
	height     top.Height
}

// books waits until every node is as far as the first, for balances are asked of all; of
// more accounts than are checked one by one, held is only what was not burned.
func (n *benchNet) books(ctx context.Context, p load.Plan) (b books, err error) {
	s, err := n.nodes[0].Status(ctx)
	if err != nil {
		return b, err
	}
	b = books{s.Supply - s.Burned, s.Burned, s.FeePerByte, s.Height}
	if p.All > exactPayers {
		return b, nil
	}
	if _, err := n.sameRoots(ctx, s.Height-1); err != nil {
		return b, err
	}
	b.held = 0
	for i := -1; i < p.All; i++ {
		a, err := n.nodes[(i+1)%len(n.nodes)].Account(ctx, top.Address(load.Key(n.root, i).Public()))
		if err != nil {
			return b, err
		}
		b.held += a.Balance
	}
	return b, nil
}

// tally compares what the chain booked over all channels with the ticks that the
// providers checked, and with the money that came to them.
func (n *benchNet) tally(ctx context.Context, p load.Plan, r *benchRecord, ticks uint64, earned top.Amount) error {
	booked, price := uint64(0), top.Amount(0)
	for i := range n.vals {
		q := p
		q.Chain, q.Seed, q.Index, q.First = n.chain, n.root, n.index, i*p.Accounts
		b, err := load.Booked(ctx, q, n.nodes[i])
		if err != nil {
			return err
		}
		booked += b
		price += top.Amount(b) * load.TickPrice
	}
	r.Conserved = booked == ticks && price == earned
	if !r.Conserved {
		r.Reason = cmp.Or(r.Reason, fmt.Sprintf("%d ticks were checked, %d booked, %s earned", ticks, booked, earned))
	}
	return nil
}

// sameRoots compares the roots of all nodes at one height after the last that counts.
func (n *benchNet) sameRoots(ctx context.Context, last top.Height) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	seen := map[top.Height][]*top.ID{}
	for {
		for i, node := range n.nodes {
			s, err := node.Status(ctx)
			if err != nil {
				return false, err
			}
			at := seen[s.Height]
			if at == nil {
				at = make([]*top.ID, len(n.nodes))
				seen[s.Height] = at
			}
			at[i] = &s.Root
			if s.Height > last && !slices.Contains(at, nil) {
				return !slices.ContainsFunc(at, func(id *top.ID) bool { return *id != *at[0] }), nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, top.Errorf(top.Timeout, "the nodes do not come to one height")
		}
	}
}

// usage is the processor time of all nodes, in seconds.
func (n *benchNet) usage() (sum float64) {
	for _, f := range n.stats() {
		if len(f) > 14 {
			var user, system float64
			fmt.Sscan(f[11], &user)
			fmt.Sscan(f[12], &system)
			sum += (user + system) / 100 // USER_HZ
		}
	}
	return sum
}

// resident is the memory of the largest node, MiB.
func (n *benchNet) resident() (most int) {
	for _, f := range n.stats() {
		if len(f) > 21 {
			pages := 0
			fmt.Sscan(f[21], &pages)
			most = max(most, pages*os.Getpagesize()>>20)
		}
	}
	return most
}

// stats is the fields of /proc/PID/stat after the name of every node.
func (n *benchNet) stats() (all [][]string) {
	if n.group == nil {
		return nil // they are not this program's to look at
	}
	n.group.mu.Lock()
	defer n.group.mu.Unlock()
	for _, p := range n.group.running {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		if err != nil {
			continue // it ended: the run fails elsewhere
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		all = append(all, strings.Fields(rest))
	}
	return all
}

// machine is the processor's name and how many cores it has.
func machine() (string, int) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown", 0
	}
	name, cores := "unknown", 0
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			name = strings.TrimSpace(v)
			cores++
		}
	}
	return name, cores
}

// A driver is the process of one.
type driver struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err bytes.Buffer
}

// begin starts a driver and waits until it is prepared.
func (d *driver) begin(ctx context.Context, self string, p load.Plan) error {
	plan, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("start driver: %w", err)
	}
	d.cmd = exec.CommandContext(ctx, self, "bench-driver", string(plan))
	d.cmd.Stderr = &d.err
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		return fmt.Errorf("start driver: %w", err)
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start driver: %w", err)
	}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start driver: %w", err)
	}
	d.out = bufio.NewReader(out)
	_, err = d.line()
	return err
}

// line is the next line that the driver says.
func (d *driver) line() ([]byte, error) {
	b, err := d.out.ReadBytes('\n')
	if err != nil {
		d.stop()
		return nil, top.Errorf(top.Failed, "a driver ended: %s", bytes.TrimSpace(d.err.Bytes()))
	}
	return b, nil
}

// run lets the driver go and gives what it saw.
func (d *driver) run() (r load.Result, err error) {
	if _, err := d.in.Write([]byte{'\n'}); err != nil {
		return r, fmt.Errorf("let driver go: %w", err)
	}
	b, err := d.line()
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("result of a driver: %w", err)
	}
	return r, nil
}

func (d *driver) stop() {
	if d.cmd == nil || d.cmd.Process == nil || d.cmd.ProcessState != nil {
		return
	}
	d.in.Close()
	d.cmd.Wait() // how it ended does not matter any more
}
