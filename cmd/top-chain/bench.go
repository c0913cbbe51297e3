package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/ledger"
	"top/lib/load"
	"top/lib/session"
	"top/lib/tool"
	"top/lib/top"
)

func benchVerb() tool.Verb {
	return tool.Verb{
		Name: "bench", Summary: "measure what a network settles, on a fresh one or on one that runs",
		Doc: `Runs validators in a temporary folder, and for each a driver: a process of its own
that signs payments and hands them in over the node's socket. Offered is what the
drivers were to hand in each second, whether the network kept up or not; times run
from when a payment was due until its driver was told that it is final. At the end
every node must have the same root and every nano be where the verdicts say.

Rates, each a figure of its own:
 signed   one signature for each payment
 batched  one signature for --batch payments
 ticks    service payments: each checked by its provider, and booked by claims of a
          whole voucher, of which --offer are handed in each second; with --presign
          the hash chains are made before the clock starts

--offer 0 keeps --window payments of each driver under way instead.

With --on the drivers hand in at nodes that run already. The money comes from an
account whose key --seed-file keeps: the first run says what to pay it. What is left
stays with the accounts of that seed, for the next run.`,
		Flags: []tool.Flag{
			{Name: "rate", Default: load.Signed, Help: "signed, batched or ticks"},
			{Name: "validators", Kind: tool.Int, Default: "4", Help: "of the fresh network"},
			{Name: "seconds", Kind: tool.Int, Default: "30", Help: "how long payments are offered"},
			{Name: "offer", Kind: tool.Int, Default: "0", Help: "transactions (or claims) offered a second, by all drivers; 0 is as many as are settled"},
			{Name: "window", Kind: tool.Int, Default: "4000", Help: "transactions of one driver under way, with --offer 0"},
			{Name: "batch", Kind: tool.Int, Default: "1000", Help: "payments under one signature, when batched"},
			{Name: "presign", Kind: tool.Bool, Help: "sign before the clock starts"},
			{Name: "payers", Kind: tool.Int, Default: "1024", Help: "accounts of each driver that pay in turns"},
			{Name: "accounts", Kind: tool.Int, Default: "0", Help: "accounts in all, at least the payers"},
			{Name: "on", Kind: tool.Strings, Help: "measure the network of this home's node, which runs; may repeat, a driver each"},
			{Name: "seed-file", Help: "with --on: the file of the payers' keys, made if it is missing (default HOME/bench.seed)"},
			{Name: "plot", Help: "write a plot of every second to this file: out.svg"},
		},
		Records: []string{"bench"},
		Examples: []string{"top-chain bench --offer 10000", "top-chain bench --rate batched --batch 8000 --json", "top-chain bench --rate ticks --offer 1500",
			"top-chain bench --on ~/.top --payers 16 --offer 200 --seconds 10"},
		Run: bench,
	}
}

// driverVerb is the process that bench starts for each node.
func driverVerb() tool.Verb {
	return tool.Verb{
		Name: "bench-driver", Summary: "one driver of bench, which starts at a byte on stdin", Hidden: true,
		Args: []tool.Arg{{Name: "PLAN", Help: "what to do, JSON"}}, Run: drive,
	}
}

func drive(ctx context.Context, c *tool.Call) error {
	var p load.Plan
	if err := json.Unmarshal([]byte(c.Arg(0)), &p); err != nil {
		return top.Errorf(top.Usage, "not a plan: %v", err)
	}
	d, err := load.NewDriver(ctx, p)
	if err != nil {
		return err
	}
	in, err := c.Input("-")
	if err != nil {
		return err
	}
	defer in.Close()
	if err := c.Emit(struct{}{}, "ready"); err != nil {
		return err
	}
	if _, err := in.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the start: %w", err)
	}
	r, err := d.Run(ctx)
	if err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return c.Emit(struct{}{}, "%s", b)
}

// A benchRecord is what a run measured. Payments a second are over the time in which
// they were offered.
type benchRecord struct {
	Type       string     `json:"type"` // "bench"
	Rate       string     `json:"rate"`
	Validators int        `json:"validators"`
	Drivers    int        `json:"drivers"`
	Seconds    int        `json:"seconds"`
	Payers     int        `json:"payers"`
	Accounts   int        `json:"accounts"`
	Batch      int        `json:"batch"` // payments of one transaction
	Presigned  bool       `json:"presigned"`
	Target     int        `json:"target"`   // payments a second that were to be offered; 0 is as many as were settled
	Offered    int        `json:"offered"`  // payments a second
	Accepted   int        `json:"accepted"` // payments a second
	Busy       int        `json:"busy"`     // payments a second that were told to come again
	Settled    int        `json:"settled"`  // payments a second
	Claims     int        `json:"claims"`   // claims a second that booked them, at the rate of ticks
	Failed     top.Count  `json:"failed"`   // transactions
	Lost       top.Count  `json:"lost"`     // transactions taken and not final in time
	P50Us      int        `json:"p50_us"`
	P95Us      int        `json:"p95_us"`
	P99Us      int        `json:"p99_us"`
	NodeCPU    int        `json:"node_cpu"`   // thousandths of a core, all validators
	DriverCPU  int        `json:"driver_cpu"` // thousandths of a core, all drivers
	CPUNanos   int        `json:"cpu_ns"`     // of all processes, for each payment
	TxBytes    int        `json:"tx_bytes"`   // of the largest transaction
	Fee        top.Amount `json:"fee"`        // of one transaction of that size
	FeePPM     int        `json:"fee_ppm"`    // of all ticks, in millionths of what they paid; 0 at other rates
	NodeMiB    int        `json:"node_mib"`   // resident, the largest validator
	Blocks     int        `json:"blocks"`
	Conserved  bool       `json:"conserved"`  // the balances are what the verdicts say
	SameRoots  bool       `json:"same_roots"` // on every validator
	Reason     string     `json:"reason,omitempty"`
	CPU        string     `json:"cpu"`
	Cores      int        `json:"cores"`

	seconds []load.Second
}

const (
	benchFund   = 1_000 * top.One
	benchExtra  = 10_000_000 * top.One
	benchDrain  = 15 * time.Second
	tickPayers  = 65     // of each driver: its provider, and who pay him
	createBatch = 20_000 // accounts made by one transaction
	exactPayers = 8_192  // accounts whose balances are all checked
)

func bench(ctx context.Context, c *tool.Call) error {
	p := load.Plan{
		Rate: c.String("rate"), Window: c.Int("window"), Presign: c.Bool("presign"), Batch: c.Int("batch"),
		Duration: time.Duration(c.Int("seconds")) * time.Second, Drain: benchDrain, Accounts: c.Int("payers"), Nonce: 1,
	}
	switch p.Rate {
	case load.Signed:
		p.Batch = 1
	case load.Ticks:
		p.Batch = session.MaxSteps
		if !c.Set("payers") {
			p.Accounts = tickPayers
		}
	}
	vals := c.Int("validators")
	if on := len(c.Strings("on")); on > 0 {
		vals = on
	}
	switch {
	case !slices.Contains(load.Rates, p.Rate):
		return top.Errorf(top.Usage, "--rate %s: want %s", p.Rate, strings.Join(load.Rates, ", "))
	case p.Rate == load.Ticks && c.Int("offer") == 0:
		return top.Errorf(top.Usage, "ticks are checked as fast as can be, but say how many claims a second are handed in: --offer 1500")
	case vals < 1 || vals > maxValidators:
		return top.Errorf(top.Usage, "--validators %d: want 1 to %d", vals, maxValidators)
	case p.Duration < time.Second || p.Accounts < 2 || p.Batch < 1 || p.Batch > ledger.MaxRecords || c.Int("offer") < 0 || p.Window < 1:
		return top.Errorf(top.Usage, "want --seconds from 1, --payers from 2, --batch from 1 to %d, --window from 1 and --offer from 0", ledger.MaxRecords)
	case p.Presign && p.Rate != load.Ticks && c.Int("offer") == 0:
		return top.Errorf(top.Usage, "--presign needs to know how much: --offer N")
	}
	p.All = max(c.Int("accounts"), vals*p.Accounts)
	p.PerSecond = float64(c.Int("offer")) / float64(vals)
	net, done, err := benchNetOf(ctx, c, vals)
	if err != nil {
		return err
	}
	defer done()
	if err := net.fund(ctx, c, p.All); err != nil {
		return err
	}
	if p.Nonce, err = net.nonce(ctx, vals*p.Accounts); err != nil {
		return err
	}
	r, err := net.measure(ctx, c, p)
	if err != nil {
		return err
	}
	if path := c.String("plot"); path != "" {
		if err := os.WriteFile(path, []byte(load.Plot(r.Rate, p.Batch, r.seconds)), 0o644); err != nil {
			return fmt.Errorf("write plot: %w", err)
		}
	}
	if err := c.Emit(r, "%s", r.table()); err != nil {
		return err
	}
	if !r.Conserved || !r.SameRoots || r.Lost > 0 {
		return top.Errorf(top.Failed, "conserved %t, same roots %t, %d lost", r.Conserved, r.SameRoots, r.Lost)
	}
	return nil
}

// benchNetOf is the network to measure: one that runs, or a fresh one in a folder that
// done removes.
func benchNetOf(ctx context.Context, c *tool.Call, vals int) (net *benchNet, done func(), err error) {
	if homes := c.Strings("on"); len(homes) > 0 {
		net, err = joinBench(ctx, c, homes)
		return net, func() {}, err
	}
	dir, err := os.MkdirTemp("", "top-bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("make folder: %w", err)
	}
	net, err = startBench(ctx, c, dir, vals)
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return net, func() {
		net.group.stop()
		os.RemoveAll(dir)
	}, nil
}

// measure runs a driver for each node and checks what they left.
func (n *benchNet) measure(ctx context.Context, c *tool.Call, p load.Plan) (r benchRecord, err error) {
	p.Chain, p.Seed, p.Index = n.chain, n.root, n.index
	c.Info("preparing %d drivers", len(n.socks))
	drivers := make([]*driver, len(n.socks))
	var prepare errgroup.Group
	for i := range drivers {
		q := p
		q.Sock, q.First = n.socks[i], i*p.Accounts
		drivers[i] = &driver{}
		prepare.Go(func() error { return drivers[i].begin(ctx, n.self, q) })
	}
	defer func() {
		for _, d := range drivers {
			d.stop()
		}
	}()
	if err := prepare.Wait(); err != nil {
		return r, err
	}
	before, err := n.books(ctx, p)
	if err != nil {
		return r, err
	}
	c.Info("offering for %s", p.Duration)
	results, err := n.drive(ctx, drivers, p.Duration, &r)
	if err != nil {
		return r, err
	}
	r.Type, r.Rate, r.Validators, r.Drivers, r.Seconds = "bench", p.Rate, len(n.vals), len(drivers), c.Int("seconds")
	r.Payers, r.Accounts, r.Batch, r.Presigned = p.Accounts*len(drivers), p.All, p.Batch, p.Presign
	r.Target = c.Int("offer") * p.Batch
	r.CPU, r.Cores = machine()
	r.Blocks -= int(before.height)
	sum := r.add(results, before.feePerByte)
	if r.SameRoots, err = n.sameRoots(ctx, sum.Last); err != nil {
		return r, err
	}
	return r, n.judge(ctx, p, &r, sum, before)
}

// drive lets the drivers run, and looks at the nodes when the time is over.
func (n *benchNet) drive(ctx context.Context, drivers []*driver, d time.Duration, r *benchRecord) ([]load.Result, error) {
	cpu, began := n.usage(), time.Now()
	results := make([]load.Result, len(drivers))
	var run errgroup.Group
	for i, d := range drivers {
		run.Go(func() (err error) {
			results[i], err = d.run()
			return err
		})
	}
	run.Go(func() error {
		over := time.NewTimer(d)
		defer over.Stop()
		select {
		case <-over.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.NodeCPU = int((n.usage() - cpu) / time.Since(began).Seconds() * 1000)
		r.NodeMiB = n.resident()
		s, err := n.nodes[0].Status(ctx)
		r.Blocks = int(s.Height)
		return err
	})
	return results, run.Wait()
}

// judge compares what the payers have now, and what was burned, with what the verdicts
// say, to the nano.
func (n *benchNet) judge(ctx context.Context, p load.Plan, r *benchRecord, sum load.Result, before books) error {
	after, err := n.books(ctx, p)
	if err != nil {
		return err
	}
	burned := after.burned - before.burned
	if p.Rate == load.Ticks {
		return n.tally(ctx, p, r, sum.Ticks, after.held-before.held+burned)
	}
	fees := top.Amount(sum.Bytes)*before.feePerByte + sum.Charged
	r.Conserved = before.held-after.held == fees && (burned == fees || n.group == nil) // others pay fees on a network that runs
	if !r.Conserved {
		r.Reason = fmt.Sprintf("the payers had %s and have %s, fees of %s were due, %s were burned", before.held, after.held, fees, burned)
	}
	return nil
}

// add sums up what the drivers saw.
func (r *benchRecord) add(results []load.Result, feePerByte top.Amount) (sum load.Result) {
	sum.Latency = new(load.Histogram)
	cpu := 0.0
	for _, d := range results {
		sum.Offered += d.Offered
		sum.Taken += d.Taken
		sum.Busy += d.Busy
		sum.Denied += d.Denied
		sum.Final += d.Final
		sum.Failed += d.Failed
		sum.InTime += d.InTime
		sum.Ticks += d.Ticks
		sum.Last = max(sum.Last, d.Last)
		sum.Bytes += d.Bytes
		sum.Charged += d.Charged
		sum.Size = max(sum.Size, d.Size)
		cpu += d.CPU
		sum.Latency.Merge(d.Latency)
		r.Reason = cmp.Or(r.Reason, d.Reason)
		for i, s := range d.Seconds {
			if i == len(r.seconds) {
				r.seconds = append(r.seconds, load.Second{})
			}
			r.seconds[i].Offered += s.Offered
			r.seconds[i].Taken += s.Taken
			r.seconds[i].Final += s.Final
		}
	}
	rate := func(txs uint64) int { return int(txs) * r.Batch / r.Seconds }
	r.Offered, r.Accepted, r.Busy, r.Settled = rate(sum.Offered), rate(sum.Taken), rate(sum.Busy), rate(sum.InTime)
	r.Failed, r.Lost = top.Count(sum.Failed), top.Count(sum.Taken-min(sum.Taken, sum.Final))
	us := func(q float64) int { return int(sum.Latency.Quantile(q).Microseconds()) }
	if r.Rate == load.Ticks {
		r.Claims, r.Settled = r.Settled/r.Batch, int(sum.Ticks)/r.Seconds
		r.Offered, r.Accepted = r.Settled, r.Settled
		fees := top.Amount(sum.Bytes) * feePerByte
		r.FeePPM = int(uint64(fees) * 1e6 / max(sum.Ticks*load.TickPrice, 1))
	}
	r.P50Us, r.P95Us, r.P99Us = us(0.5), us(0.95), us(0.99)
	r.DriverCPU = int(cpu * 1000 / float64(r.Seconds))
	r.CPUNanos = (r.DriverCPU + r.NodeCPU) * 1e6 / max(r.Settled, 1)
	r.TxBytes, r.Fee = sum.Size, top.Amount(sum.Size)*feePerByte
	return sum
}

// table is the record for people.
func (r benchRecord) table() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-28s %s\n", name, fmt.Sprintf(format, args...))
	}
	when := "signed within the window"
	if r.Rate == load.Ticks {
		when = "hash chains made within the window"
	}
	if r.Presigned {
		when = strings.Replace(when, "within the window", "before the clock started", 1)
	}
	row("machine", "%d x %s", r.Cores, r.CPU)
	row("network", "%d validators, %d drivers, %d payers, %d accounts", r.Validators, r.Drivers, r.Payers, r.Accounts)
	row("rate", "%s, %d payments to a signature, %s", r.Rate, r.Batch, when)
	row("offered, payments/s", "%d", r.Offered)
	row("told busy, payments/s", "%d", r.Busy)
	row("settled, payments/s", "%d over %d s", r.Settled, r.Seconds)
	if r.Rate == load.Ticks {
		row("claims booked/s", "%d, of %d ticks each at most", r.Claims, r.Batch)
	}
	row("submit to final", "p50 %d ms, p95 %d ms, p99 %d ms", r.P50Us/1000, r.P95Us/1000, r.P99Us/1000)
	row("blocks", "%d", r.Blocks)
	row("processor", "validators %.2f cores, drivers %.2f, %.2f us a payment in all", float64(r.NodeCPU)/1000, float64(r.DriverCPU)/1000, float64(r.CPUNanos)/1000)
	row("a validators' core settles", "%d payments/s", r.Settled*1000/max(r.NodeCPU, 1))
	row("bytes", "%.1f a payment, %d a transaction", float64(r.TxBytes)/float64(r.Batch), r.TxBytes)
	row("fee", "%s TOP a transaction, %.1f nano a payment", r.Fee, float64(r.Fee)/float64(r.Batch))
	if r.Rate == load.Ticks {
		row("fee of a tick", "%.3f %% of what it pays", float64(r.FeePPM)/1e4)
	}
	row("largest validator", "%d MiB", r.NodeMiB)
	row("failed, lost", "%s, %s", r.Failed, r.Lost)
	row("balances conserved", "%t", r.Conserved)
	row("roots equal", "%t", r.SameRoots)
	if r.Reason != "" {
		row("last refusal", "%s", r.Reason)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
