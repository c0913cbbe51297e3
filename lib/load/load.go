// Package load drives a chain as its users would, and measures what comes of it: it
// signs payments, hands them in over chain.sock at a given rate, and notes when each
// of them is final.
//
//	D1  the loop is open: a payment that is due is offered when it is due, and its
//	    time counts from then, however long the chain or the driver takes
//	D2  what was offered is either refused, or taken, and what was taken is final, or
//	    said to be lost
//	D3  what the accounts hold at the end is what they held before, and what the
//	    verdicts say
package load

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/top"
)

// The rates (docs/scale.md, "Three rates").
const (
	Signed  = "signed"  // one signature for each payment
	Batched = "batched" // one signature for Batch payments
)

// Rates are all of them.
var Rates = []string{Signed, Batched, Ticks}

// A Plan is what one driver does.
type Plan struct {
	Sock      string        `json:"sock"`
	Chain     top.ChainID   `json:"chain"`
	Rate      string        `json:"rate"`
	PerSecond float64       `json:"per_second"` // transactions offered, claims at the rate of ticks; 0 keeps Window under way
	Window    int           `json:"window"`
	Duration  time.Duration `json:"duration"`
	Drain     time.Duration `json:"drain"`   // that what was taken has to become final
	Presign   bool          `json:"presign"` // sign, or make the hash chains, before the clock starts
	Batch     int           `json:"batch"`   // payments of one transaction, when batched
	Seed      top.ID        `json:"seed"`    // of the accounts' keys
	First     int           `json:"first"`   // number of its first account
	Accounts  int           `json:"accounts"`
	Index     uint32        `json:"index"` // on the chain, of the account with number 0
	All       int           `json:"all"`   // accounts of all drivers
	Nonce     uint64        `json:"nonce"` // of the first transaction of each account
}

// A Result is what one driver saw.
type Result struct {
	Offered uint64     `json:"offered"`
	Taken   uint64     `json:"taken"`
	Busy    uint64     `json:"busy"`   // refused for want of room
	Denied  uint64     `json:"denied"` // refused for another reason
	Final   uint64     `json:"final"`
	Failed  uint64     `json:"failed"`  // of those, not carried out
	InTime  uint64     `json:"in_time"` // final within the duration
	Ticks   uint64     `json:"ticks"`   // checked by the provider
	Bytes   uint64     `json:"bytes"`   // of those that were carried out
	Charged top.Amount `json:"charged"` // fees of those that failed, as the chain has them: what could be repeated pays none
	CPU     float64    `json:"cpu"`     // seconds, within the duration
	Seconds []Second   `json:"seconds"`
	Latency *Histogram `json:"latency"`
	Reason  string     `json:"reason,omitempty"` // of the last that was denied, or failed
	Size    int        `json:"size"`             // bytes of one transaction
	Last    top.Height `json:"last"`             // block that was final last

}

// A Second is what happened within one second of the run.
type Second struct {
	Offered uint64 `json:"offered"`
	Taken   uint64 `json:"taken"`
	Final   uint64 `json:"final"`
}

// Key is the key of an account by its number.
func Key(seed top.ID, number int) keys.Private {
	return keys.FromSeed(sha256.Sum256(binary.BigEndian.AppendUint64(seed[:], uint64(number))))
}

// expiry is how long a transaction of a driver may wait.
const expiry = 10 * time.Minute

// A Driver is one process that pays.
type Driver struct {
	plan  Plan
	keys  []keys.Private
	until uint64   // expiry of what it signs
	out   [][]byte // signed before
	now   func() time.Time

	mu     sync.Mutex
	sent   []sent      // by transaction
	failed []uint64    // transactions that are final and were not carried out
	ticks  *tickDriver // nil at other rates
	r      Result
	start  time.Time
}

// A sent is when a transaction was due, in milliseconds after the start, and its
// bytes.
type sent struct{ due, size uint32 }

// NewDriver prepares a driver: it makes the keys and, when the plan says so, signs.
func NewDriver(ctx context.Context, p Plan) (*Driver, error) {
	if p.Accounts <= 0 || p.All < p.Accounts || p.Duration <= 0 || !slices.Contains(Rates, p.Rate) || p.Rate == Ticks && (p.PerSecond == 0 || p.Accounts < 2) {
		return nil, top.Errorf(top.Invalid, "not a plan: %+v", p)
	}
	d := &Driver{plan: p, now: time.Now}
	d.until = uint64(d.now().Add(expiry + p.Duration).Unix())
	for i := range p.Accounts {
		d.keys = append(d.keys, Key(p.Seed, p.First+i))
	}
	if p.Rate == Ticks {
		var err error
		d.ticks, err = newTicks(ctx, d)
		return d, err
	}
	if p.Presign {
		n := int(p.PerSecond*p.Duration.Seconds()) + 1
		if p.PerSecond == 0 {
			return nil, top.Errorf(top.Invalid, "what is signed before needs a rate")
		}
		var wg sync.WaitGroup
		d.out = make([][]byte, n)
		errs := make([]error, 2)
		for half := range errs {
			wg.Go(func() {
				for i := half; i < n; i += len(errs) {
					var err error
					if d.out[i], err = d.make(i); err != nil {
						errs[half] = err
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// make is the nth transaction, signed: always the same bytes. Payers take turns; each pays to others of
// the same driver, or a batch to accounts of all.
func (d *Driver) make(n int) ([]byte, error) {
	p := &d.plan
	who := n % p.Accounts
	round := n / p.Accounts
	t := ledger.Tx{
		Chain: p.Chain, From: p.Index + uint32(p.First+who), Nonce: p.Nonce + uint64(round),
		Expiry: d.until,
	}
	if p.Rate == Batched {
		b := &ledger.Batch{Records: make([]ledger.Record, p.Batch)}
		for i := range b.Records {
			to := (uint64(n)*uint64(p.Batch) + uint64(i)) * 2654435761 % uint64(p.All)
			b.Records[i] = ledger.Record{Index: p.Index + uint32(to), Amount: 1}
		}
		t.Body = b
	} else {
		to := (who + 1 + round%(p.Accounts-1)) % p.Accounts
		t.Body = &ledger.Transfer{To: ledger.To(p.Index + uint32(p.First+to)), Amount: 1}
	}
	if err := t.Sign(d.keys[who].Signer()); err != nil {
		return nil, err
	}
	return t.Encode(), nil
}

// Run offers what the plan says and returns what became of it.
func (d *Driver) Run(ctx context.Context) (Result, error) {
	chain := api.NewChain(sock.Dial(d.plan.Sock, "top-chain serve"))
	if err := d.pay(ctx, chain); err != nil {
		return d.r, err
	}
	return d.r, d.charged(ctx, chain)
}

// pay offers what the plan says and hears what becomes of it.
func (d *Driver) pay(ctx context.Context, chain *api.Chain) error {
	ctx, cancel := context.WithTimeout(ctx, d.plan.Duration+d.plan.Drain)
	defer cancel()
	s, err := chain.TxStream(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	d.r = Result{Latency: new(Histogram), Seconds: make([]Second, int(d.plan.Duration.Seconds()+d.plan.Drain.Seconds())+1)}
	d.start = d.now()
	cpu := used()
	heard := make(chan error, 1)
	go func() { heard <- d.listen(s) }()
	if d.ticks != nil {
		err = d.ticks.run(s)
	} else {
		err = d.offer(ctx, s)
	}
	d.mu.Lock()
	d.r.CPU = used() - cpu
	d.mu.Unlock()
	if err == nil {
		err = s.End()
	}
	if err != nil {
		return err
	}
	select {
	case err = <-heard:
	case <-ctx.Done():
		s.Close()
		<-heard
		err = nil // what is missing is counted
	}
	return err
}

// charged asks the chain what those paid that were not carried out (D3): a verdict does
// not say it.
func (d *Driver) charged(ctx context.Context, chain *api.Chain) error {
	if d.ticks != nil {
		return nil // claims pay out of what they bring
	}
	for _, n := range d.failed {
		raw, err := d.next(int(n))
		if err != nil {
			return err
		}
		t, err := chain.Tx(ctx, ledger.ID(raw), time.Minute)
		if err != nil {
			return fmt.Errorf("ask for a transaction that failed: %w", err)
		}
		d.r.Charged += t.Fee
		d.r.Reason = t.Message
	}
	return nil
}

// used is the processor time of this process, in seconds.
func used() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// step is how often what is due is offered.
const step = time.Millisecond

// offer hands in transactions as they are due (D1).
func (d *Driver) offer(ctx context.Context, s *api.TxStream) error {
	tick := time.NewTicker(step)
	defer tick.Stop()
	for n := 0; ; {
		now := d.now().Sub(d.start)
		if now >= d.plan.Duration {
			return nil
		}
		due := int(now.Seconds() * d.plan.PerSecond)
		if d.plan.PerSecond == 0 {
			d.mu.Lock()
			under := int(d.r.Offered - d.r.Final - d.r.Busy - d.r.Denied)
			d.mu.Unlock()
			due = n + min(d.plan.Window-under, 200)
		}
		for i := 0; n < due && i < 500; i++ {
			raw, err := d.next(n)
			if err != nil {
				return err
			}
			at := now
			if d.plan.PerSecond > 0 {
				at = time.Duration(float64(n) / d.plan.PerSecond * float64(time.Second))
			}
			if err := d.send(s, raw, at, now); err != nil {
				return err
			}
			n++
		}
		if err := s.Flush(); err != nil {
			return err
		}
		if n < due {
			continue // behind: no pause
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send offers one transaction that was due at some time.
func (d *Driver) send(s *api.TxStream, raw []byte, due, now time.Duration) error {
	d.mu.Lock()
	d.sent = append(d.sent, sent{uint32(due.Milliseconds()), uint32(len(raw))})
	d.r.Offered++
	d.r.Size = max(d.r.Size, len(raw))
	d.second(now).Offered++
	d.mu.Unlock()
	return s.Send(raw)
}

func (d *Driver) next(n int) ([]byte, error) {
	if d.plan.Presign {
		if n >= len(d.out) {
			return nil, fmt.Errorf("only %d were signed before: %w", len(d.out), top.ErrFailed)
		}
		return d.out[n], nil
	}
	return d.make(n)
}

func (d *Driver) second(at time.Duration) *Second {
	return &d.r.Seconds[min(int(at.Seconds()), len(d.r.Seconds)-1)]
}

// listen takes the verdicts until the stream ends.
func (d *Driver) listen(s *api.TxStream) error {
	for {
		all, err := s.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		now := d.now().Sub(d.start)
		d.mu.Lock()
		for _, v := range all {
			d.note(v, now)
		}
		d.mu.Unlock()
	}
}

func (d *Driver) note(v api.Verdict, now time.Duration) {
	r := &d.r
	switch {
	case v.Seq >= uint64(len(d.sent)): // of nothing that was offered
	case errors.Is(v.Err, top.ErrBusy):
		r.Busy++
	case v.Err != nil:
		r.Denied++
		r.Reason = v.Err.Error()
	case v.Height == 0:
		r.Taken++
		d.second(now).Taken++
	default:
		r.Final++
		r.Last = max(r.Last, v.Height)
		d.second(now).Final++
		if v.Code != 0 {
			r.Failed++
			d.failed = append(d.failed, v.Seq)
		} else {
			r.Bytes += uint64(d.sent[v.Seq].size)
			if d.ticks != nil {
				d.ticks.final(v.Seq)
			}
		}
		if now <= d.plan.Duration {
			r.InTime++
		}
		r.Latency.Add(now - time.Duration(d.sent[v.Seq].due)*time.Millisecond)
	}
}
