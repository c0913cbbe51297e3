// Package pool is the transactions that wait for a block at one node: its own
// users' in turns by payer, and the bundles of its peers, with the signatures of
// all of them checked. It knows nothing of CometBFT and of what a state says.
//
//	Q1  a signature is checked once by a node, in a batch, before the transaction
//	    leaves the node or is agreed upon
//	Q2  a payer who fills his share of the room keeps nobody else out, and whoever
//	    waits is served in turns
//	Q3  memory is bounded: what does not fit is told busy, with a time
//	Q4  whoever hands in a transaction is told once whether it was taken, and, when
//	    it was, once what became of it
//	Q5  what a peer sends is refused for what any node finds wrong without state; for
//	    what it cannot pay only when most of a bundle could not
package pool

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"syscall"
	"time"

	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/top"
)

// The limits, and why: docs/decisions/0010-bundles.md.
const (
	bundleTxs   = 1_000       // transactions of one bundle
	bundleBytes = 512 << 10   // and their bytes, unless one alone has more
	maxAge      = time.Second // that the oldest of this node's has waited before more than fewWaiting are refused
	fewWaiting  = 1_000
	bundleWait  = 100 * time.Millisecond // how long a transaction waits for others, while a bundle is under way
	maxWaiting  = 8_000                  // transactions of this node's users that wait or are under way
	maxBytes    = 16 << 20               // and their bytes
	payerShare  = 8                      // a payer takes at most maxWaiting and maxBytes / payerShare
	maxKnown    = 128 << 20              // bytes of bundles remembered
	maxQueued   = 32 << 20               // bytes of peers' bundles that wait to be checked
	busyPause   = 100 * time.Millisecond // when there may be room again
)

// Config is what a Pool asks of its node.
type Config struct {
	Chain top.ChainID
	// Admit says of each transaction whether its payer could pay for size bytes, of
	// all that he has waiting. An error for the whole is that nothing can be said now.
	Admit func(all []ledger.Signed, sizes []int) ([]error, error)
	// Hand gives a bundle that is verified to consensus. top.ErrBusy is tried again.
	Hand func(bundle []byte) error
	// Spread tells other nodes of a bundle that was handed over.
	Spread func(id top.ID, own bool)
	Log    *slog.Logger
}

// A Watcher is told what becomes of the transactions that it handed in, by the
// numbers that it gave them. Both must be quick: they hold the pool up.
type Watcher interface {
	// Taken is told once: nil when the transaction waits for a block, or why not.
	Taken(seq uint64, err error)
	// Final is told once a block holds it.
	Final(seq uint64, height top.Height, code uint32)
}

// An Item is a transaction handed in.
type Item struct {
	ledger.Signed
	Seq uint64 // for the Watcher
}

// Pool is safe for concurrent use.
type Pool struct {
	cfg  Config
	ring keys.Ring

	mu      sync.Mutex
	queues  map[uint32]*queue // by payer, those that are not empty
	turns   []*queue          // whose turn it is
	queued  int               // transactions in queues
	bytes   int               // of own transactions that wait or are under way
	since   time.Time         // when the oldest of a run of queued ones came
	waiting map[top.ID]*waiter
	ages    []*waiter      // in the order in which they came; those that are gone are skipped
	owed    map[uint32]int // bytes that each payer has waiting, anywhere
	kick    chan struct{}  // something changed for Run

	known      map[top.ID]*known
	fifo       []top.ID // of known, oldest first
	knownBytes int
	jobs       []*known // peers' bundles to check
	jobBytes   int
	jobKick    chan struct{}
	inFlight   int // own bundles handed to consensus and not final
}

// A queue is what waits of one payer.
type queue struct {
	payer uint32
	txs   []*waiter
	bytes int // queued or under way
	n     int
}

// A waiter is a transaction of this node's user.
type waiter struct {
	ledger.Signed
	watch []watch
	taken bool // the bundle that holds it was handed over
	gone  bool // it is final, or refused
	since time.Time
	q     *queue
}

type watch struct {
	to  Watcher
	seq uint64
}

// New makes a Pool; Run serves it.
func New(cfg Config) *Pool {
	return &Pool{
		cfg: cfg, queues: map[uint32]*queue{}, waiting: map[top.ID]*waiter{}, owed: map[uint32]int{}, kick: make(chan struct{}, 1),
		known: map[top.ID]*known{}, jobKick: make(chan struct{}, 1),
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Waiting is how many transactions of this node's users wait or are under way.
func (p *Pool) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

// Has says whether a transaction waits here.
func (p *Pool) Has(id top.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[id]
	return w != nil && !w.gone
}

func busy() error {
	return &top.Error{Kind: top.Busy, Message: "too many transactions wait for a block here", RetryAfter: busyPause}
}

// Add takes transactions that are read and not verified. The Watcher is told of
// each, now or later (Q4).
func (p *Pool) Add(all []Item, to Watcher) {
	fresh, sizes := p.reserve(all, to)
	if len(fresh) == 0 {
		return
	}
	signed := make([]ledger.Signed, len(fresh))
	for i, w := range fresh {
		signed[i] = w.Signed
	}
	errs, err := p.cfg.Admit(signed, sizes)
	p.mu.Lock()
	var told []func()
	for i, w := range fresh {
		why := err
		if why == nil {
			why = errs[i]
		}
		if why != nil {
			told = append(told, p.drop(w, why)...)
			continue
		}
		if w.gone {
			continue // a peer's bundle brought it into a block meanwhile
		}
		if p.queued == 0 {
			p.since = time.Now()
		}
		if len(w.q.txs) == 0 {
			p.turns = append(p.turns, w.q)
		}
		w.q.txs = append(w.q.txs, w)
		p.queued++
	}
	p.mu.Unlock()
	for _, f := range told {
		f()
	}
	wake(p.kick)
}

// reserve finds room for those that are new, and says what each payer has waiting
// with it.
func (p *Pool) reserve(all []Item, to Watcher) (fresh []*waiter, sizes []int) {
	type answer struct {
		seq uint64
		err error
	}
	var now []answer
	came := time.Now()
	p.mu.Lock()
	for _, it := range all {
		if w := p.waiting[it.ID]; w != nil {
			if w.taken {
				now = append(now, answer{it.Seq, nil})
			}
			w.watch = append(w.watch, watch{to, it.Seq})
			continue
		}
		q := p.queues[it.From]
		n := len(it.Raw)
		if len(p.waiting) >= maxWaiting || len(p.waiting) >= fewWaiting && p.old() || p.bytes+n > maxBytes && p.bytes > 0 ||
			q != nil && (q.n >= maxWaiting/payerShare || q.bytes+n > maxBytes/payerShare) {
			now = append(now, answer{it.Seq, busy()})
			continue
		}
		if q == nil {
			q = &queue{payer: it.From}
			p.queues[it.From] = q
		}
		w := &waiter{Signed: it.Signed, watch: []watch{{to, it.Seq}}, q: q, since: came}
		p.ages = append(p.ages, w)
		q.n, q.bytes, p.bytes = q.n+1, q.bytes+n, p.bytes+n
		p.waiting[it.ID] = w
		p.owed[it.From] += n
		fresh, sizes = append(fresh, w), append(sizes, p.owed[it.From])
	}
	p.mu.Unlock()
	for _, a := range now {
		to.Taken(a.seq, a.err)
	}
	return fresh, sizes
}

// old says whether the oldest transaction of this node's users has waited so long
// that more would only wait longer. The caller holds the lock.
func (p *Pool) old() bool {
	for len(p.ages) > 0 && p.ages[0].gone {
		p.ages = p.ages[1:]
	}
	return len(p.ages) > 0 && time.Since(p.ages[0].since) > maxAge
}

// drop gives up the place of a transaction that is refused, and makes what its
// watchers are told. The caller holds the lock.
func (p *Pool) drop(w *waiter, why error) (told []func()) {
	if w.gone {
		return nil
	}
	p.leave(w)
	for _, o := range w.watch {
		told = append(told, func() { o.to.Taken(o.seq, why) })
	}
	return told
}

// leave takes a transaction out of the books. The caller holds the lock.
func (p *Pool) leave(w *waiter) {
	w.gone = true
	delete(p.waiting, w.ID)
	n := len(w.Raw)
	p.bytes -= n
	w.q.n, w.q.bytes = w.q.n-1, w.q.bytes-n
	if w.q.n == 0 && p.queues[w.q.payer] == w.q {
		delete(p.queues, w.q.payer)
	}
	p.repay(w.From, n)
}

func (p *Pool) repay(payer uint32, n int) {
	if p.owed[payer] -= n; p.owed[payer] <= 0 {
		delete(p.owed, payer)
	}
}

// Run makes bundles of what waits, and checks those of peers, until ctx ends.
func (p *Pool) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range max(1, runtime.GOMAXPROCS(0)-1) {
		wg.Go(func() {
			behind()
			p.checkJobs(ctx)
		})
	}
	wg.Go(func() {
		behind()
		p.bundle(ctx)
	})
	wg.Wait()
}

// behind puts the thread of this goroutine behind the others of this machine, as
// Linux does it for each thread: when there is more to check than can be, consensus
// comes first. The thread ends with the goroutine.
func behind() {
	runtime.LockOSThread()
	syscall.Setpriority(syscall.PRIO_PROCESS, 0, behindNice) // refused, it goes on as it was
}

const behindNice = 10

// bundle makes one bundle after the other. While none is under way what comes goes
// at once; else it waits for company.
func (p *Pool) bundle(ctx context.Context) {
	for {
		batch, pause := p.next()
		switch {
		case len(batch) > 0:
			p.hand(ctx, batch)
			continue
		case pause == 0:
			pause = time.Hour
		}
		t := time.NewTimer(pause)
		select {
		case <-p.kick:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// next takes the transactions of the next bundle, one of each payer in turn (Q2);
// with none, how long to wait at most.
func (p *Pool) next() (batch []*waiter, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queued == 0 {
		return nil, 0
	}
	if p.inFlight > 0 && p.queued < bundleTxs && p.bytes < bundleBytes {
		if pause = bundleWait - time.Since(p.since); pause > 0 {
			return nil, pause
		}
	}
	size := 0
	for len(p.turns) > 0 && len(batch) < bundleTxs {
		q := p.turns[0]
		w := q.txs[0]
		if len(batch) > 0 && size+len(w.Raw) > bundleBytes {
			break
		}
		p.turns = p.turns[1:]
		if q.txs = q.txs[1:]; len(q.txs) > 0 {
			p.turns = append(p.turns, q)
		} else {
			q.txs = nil
		}
		p.queued--
		if w.gone {
			continue
		}
		batch, size = append(batch, w), size+len(w.Raw)
	}
	p.since = time.Now()
	return batch, time.Millisecond
}

// hand verifies a batch and gives what is good to consensus.
func (p *Pool) hand(ctx context.Context, batch []*waiter) {
	signed := make([]ledger.Signed, len(batch))
	for i, w := range batch {
		signed[i] = w.Signed
	}
	if errs := ledger.VerifyBatch(signed, &p.ring); errs != nil {
		good := batch[:0:0]
		for i, w := range batch {
			if errs[i] == nil {
				good = append(good, w)
			} else {
				p.refuse([]*waiter{w}, errs[i])
			}
		}
		batch = good
	}
	if len(batch) == 0 {
		return
	}
	b := make(ledger.Bundle, len(batch))
	for i, w := range batch {
		b[i] = w.Signed
	}
	k := p.own(b.Encode(), b)
	for {
		err := p.give(k)
		if err == nil {
			break
		}
		if !errors.Is(err, top.ErrBusy) {
			p.forget(k)
			p.refuse(batch, err)
			return
		}
		t := time.NewTimer(busyPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			p.refuse(batch, top.Errorf(top.Offline, "the node stops"))
			return
		}
	}
	var told []watch
	p.mu.Lock()
	for _, w := range batch {
		if !w.gone { // else a block came first, and Final told them
			w.taken = true
			told = append(told, w.watch...)
		}
	}
	p.mu.Unlock()
	for _, o := range told {
		o.to.Taken(o.seq, nil)
	}
}

// refuse tells why transactions are not taken.
func (p *Pool) refuse(all []*waiter, why error) {
	var told []func()
	p.mu.Lock()
	for _, w := range all {
		told = append(told, p.drop(w, why)...)
	}
	p.mu.Unlock()
	for _, f := range told {
		f()
	}
}

// Final says what became of the transactions of a block: bundles are those of the
// block, ids and codes its transactions in their order.
func (p *Pool) Final(height top.Height, bundles, ids []top.ID, codes []uint32) {
	var told []func()
	p.mu.Lock()
	for _, id := range bundles {
		p.remove(id)
	}
	for i, id := range ids {
		w := p.waiting[id]
		if w == nil {
			continue
		}
		late := !w.taken
		p.leave(w)
		for _, o := range w.watch {
			told = append(told, func() {
				if late {
					o.to.Taken(o.seq, nil)
				}
				o.to.Final(o.seq, height, codes[i])
			})
		}
	}
	p.mu.Unlock()
	for _, f := range told {
		f()
	}
	wake(p.kick)
}
