package chain

import (
	"errors"
	"strings"
	"sync"
	"syscall"

	dbm "github.com/cometbft/cometbft-db"

	"top/lib/top"
)

// A fault ends a node from wherever its disk or its consensus fails (C5). The
// first report counts. Who reports from inside CometBFT is parked, for its only
// answers to an error are a panic in a goroutine of its own, or going on.
type fault struct {
	once sync.Once
	gone chan struct{} // closed by the first report
	err  error         // set before gone is closed
	mu   sync.Mutex
	// stopping is set when the node closes its stores on purpose: errors after
	// that are the closing, and end nothing.
	stopping bool // guarded by mu
}

func newFault() *fault { return &fault{gone: make(chan struct{})} }

// report ends the node with err, unless it is being stopped.
func (f *fault) report(err error) {
	f.mu.Lock()
	stopping := f.stopping
	f.mu.Unlock()
	if stopping {
		return
	}
	f.once.Do(func() {
		f.err = remedy(err)
		close(f.gone)
	})
}

// park reports err and never returns.
func (f *fault) park(err error) {
	f.report(err)
	select {}
}

func (f *fault) stop() {
	f.mu.Lock()
	f.stopping = true
	f.mu.Unlock()
}

// remedies is what a person can do about an error of the disk.
var remedies = []struct {
	no   syscall.Errno
	text string
}{
	{syscall.ENOSPC, "the disk is full: %v (free some space, then start it again: top-chain serve)"},
	{syscall.EDQUOT, "the disk is full: %v (free some space, then start it again: top-chain serve)"},
	{syscall.EFBIG, "the disk is full: %v (free some space or raise the limit: ulimit -f unlimited, then top-chain serve)"},
	{syscall.EMFILE, "too many open files: %v (raise the limit: ulimit -n 4096, then top-chain serve)"},
	{syscall.EROFS, "the disk takes no writes: %v (mend that, then start it again: top-chain serve)"},
	{syscall.EIO, "the disk takes no writes: %v (mend that, then start it again: top-chain serve)"},
	{syscall.EACCES, "a file of the node cannot be written: %v (mend its owner, then start it again: top-chain serve)"},
}

// remedy adds to an error what its reader can do. CometBFT turns some errors
// into text, so the text counts too.
func remedy(err error) error {
	for _, r := range remedies {
		if errors.Is(err, r.no) || strings.Contains(err.Error(), r.no.Error()) {
			return top.Errorf(top.Failed, r.text, err)
		}
	}
	return top.Errorf(top.Failed, "the node cannot go on: %v (what was final is kept; start it again: top-chain serve)", err)
}

// guardedDB passes every error of a database to a fault.
type guardedDB struct {
	dbm.DB
	f *fault
}

func (g guardedDB) check(err error) {
	if err != nil {
		g.f.park(err)
	}
}

func (g guardedDB) Get(k []byte) ([]byte, error) {
	v, err := g.DB.Get(k)
	g.check(err)
	return v, nil
}

func (g guardedDB) Has(k []byte) (bool, error) {
	v, err := g.DB.Has(k)
	g.check(err)
	return v, nil
}

func (g guardedDB) Set(k, v []byte) error {
	g.check(g.DB.Set(k, v))
	return nil
}

func (g guardedDB) SetSync(k, v []byte) error {
	g.check(g.DB.SetSync(k, v))
	return nil
}

func (g guardedDB) Delete(k []byte) error {
	g.check(g.DB.Delete(k))
	return nil
}

func (g guardedDB) DeleteSync(k []byte) error {
	g.check(g.DB.DeleteSync(k))
	return nil
}

func (g guardedDB) Iterator(start, end []byte) (dbm.Iterator, error) {
	it, err := g.DB.Iterator(start, end)
	g.check(err)
	return it, nil
}

func (g guardedDB) ReverseIterator(start, end []byte) (dbm.Iterator, error) {
	it, err := g.DB.ReverseIterator(start, end)
	g.check(err)
	return it, nil
}

func (g guardedDB) NewBatch() dbm.Batch { return guardedBatch{g.DB.NewBatch(), g} }

type guardedBatch struct {
	dbm.Batch
	g guardedDB
}

func (b guardedBatch) Write() error {
	b.g.check(b.Batch.Write())
	return nil
}

func (b guardedBatch) WriteSync() error {
	b.g.check(b.Batch.WriteSync())
	return nil
}
