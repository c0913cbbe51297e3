// Package wallet is the agent that holds an account's key: it pays, keeps a
// journal so that nothing is paid twice or lost, signs vouchers for the daemons
// within budgets, and keeps a record of all that it signed.
//
//	W1  a wish has the effect of one, however often it is asked, and over kill -9
//	W2  a transaction is on disk before it leaves, and is signed anew only when
//	    the old one is provably dead: past its expiry, with its nonce unused
//	W3  what the agent signs for a service exposes at most that service's budget,
//	    over any 24 hours, and a voucher at most its channel's cap
//	W4  a signature is in the signing record, on disk, before it leaves
//	W5  a balance is shown only as a header's root proves it
//	W6  a voucher's number never goes back, and none is signed twice with different
//	    content
//	W7  a payer key is of an index that was on disk before and is never drawn again;
//	    it pays one channel, and signs nothing once that is to end
//	W8  what a payer key was given is in its channel, with its provider as promised,
//	    or on its way back, over kill -9 and over the loss of the disk
//
// It trusts the chain daemon of its own home for what headers are final, and
// nobody else for anything.
package wallet

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/top"
)

// Config says how an agent runs.
type Config struct {
	Home  home.Dir
	Key   keys.Private     // of the account
	Chain *api.Chain       // the chain daemon of this home
	Sock  string           // path of wallet.sock; "" is where Home has it
	Ready func() error     // called once the socket answers; may be nil
	Log   *slog.Logger     // nil is silent
	Now   func() time.Time // nil is time.Now
}

// maxInFlight bounds the transactions on their way at once: an account's nonce
// window is 64, and one that falls out of it is lost.
const maxInFlight = 32

// Agent is the wallet's daemon.
type Agent struct {
	cfg     Config
	address top.Address
	server  *sock.Server
	release func()
	journal *home.Log
	record  *record
	budgets *budgets
	slots   chan struct{} // one for each transaction on its way; holds maxInFlight
	start   time.Time
	alive   context.Context // until Run ends; what outlives a call uses it

	book *book

	mu       sync.Mutex
	purses   map[top.Address]*purse // the account and its payer keys
	payments map[string]*payment
	batches  map[string]*batch
	order    []string // of batches
	params   *ledger.Params
	paramsAt time.Time // when they were proven
	rows     map[top.ID]proven
}

// New claims the home's wallet and its socket, and reads the journal.
func New(cfg Config) (*Agent, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &Agent{
		cfg: cfg, address: cfg.Key.Public(), slots: make(chan struct{}, maxInFlight), start: cfg.Now(),
		payments: map[string]*payment{}, batches: map[string]*batch{}, rows: map[top.ID]proven{}, alive: context.Background(), book: newBook(),
	}
	a.purses = map[top.Address]*purse{a.address: {key: cfg.Key}}
	if err := makeFolder(cfg.Home); err != nil {
		return nil, err
	}
	var err error
	if a.release, err = home.Lock(cfg.Home.Path("wallet", "lock")); err != nil {
		return nil, fmt.Errorf("another agent runs on %s: %w", cfg.Home, err)
	}
	if err := a.open(); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *Agent) open() (err error) {
	if a.journal, err = home.OpenLog(a.cfg.Home.Path("wallet", "journal.ndjson")); err != nil {
		return err
	}
	if err := a.replay(); err != nil {
		return err
	}
	if a.record, err = openRecord(a.cfg.Home.Path("wallet", "signed.ndjson"), a.cfg.Key); err != nil {
		return err
	}
	if a.budgets, err = openBudgets(a.cfg.Home.Path("wallet", "budgets.json"), a.record); err != nil {
		return err
	}
	path, err := a.cfg.Home.SockOr(a.cfg.Sock, "wallet")
	if err != nil {
		return err
	}
	a.server, err = sock.New(sock.Config{Name: "top-wallet", Sock: path, Routes: a.routes(), Log: a.cfg.Log})
	return err
}

func (a *Agent) close() {
	if a.server != nil {
		a.server.Close()
	}
	if a.record != nil {
		a.record.log.Close()
	}
	if a.journal != nil {
		a.journal.Close()
	}
	a.release()
}

// Run is the agent until ctx ends. It may be called once.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	g, ctx := errgroup.WithContext(ctx)
	a.alive = ctx
	g.Go(func() error { return a.server.Run(ctx) })
	g.Go(func() error { return a.finish(ctx) })
	if a.cfg.Ready != nil {
		if err := a.cfg.Ready(); err != nil {
			g.Go(func() error { return fmt.Errorf("say ready: %w", err) })
		}
	}
	return g.Wait()
}

// Balance is an account as a header's root proves it (W5).
type Balance struct {
	ledger.Account
	Index  uint32
	Exists bool
	At     api.Header
}

// Prove checks the proof that came with an account. The header it names is the
// chain daemon's to verify.
func Prove(address top.Address, r api.Account) (b Balance, err error) {
	var p ledger.AccountProof
	if err := p.Decode(r.Proof); err != nil {
		return b, err
	}
	if b.Account, b.Index, b.Exists, err = p.Verify(r.At.Root); err != nil {
		return b, err
	}
	if p.Address != address {
		return b, top.Errorf(top.Failed, "the proof is of %s, not of %s", p.Address, address)
	}
	b.At = r.At
	return b, nil
}

// account asks for an account and proves it.
func (a *Agent) account(ctx context.Context, address top.Address) (Balance, error) {
	r, err := a.cfg.Chain.Account(ctx, address)
	if err != nil {
		return Balance{}, err
	}
	return Prove(address, r)
}

// paramsFor is how long proven parameters serve: votes change them now and then.
const paramsFor = 20 * time.Second

// chainParams is the chain's parameters, proven a short while ago; older ones serve
// while the chain does not answer.
func (a *Agent) chainParams(ctx context.Context) (ledger.Params, error) {
	a.mu.Lock()
	have, at := a.params, a.paramsAt
	a.mu.Unlock()
	if have != nil && a.cfg.Now().Sub(at) < paramsFor {
		return *have, nil
	}
	r, err := a.cfg.Chain.Params(ctx)
	if err != nil {
		if have != nil {
			return *have, nil
		}
		return ledger.Params{}, err
	}
	var p ledger.MetaProof
	if err := p.Decode(r.Proof); err != nil {
		return ledger.Params{}, err
	}
	m, err := p.Verify(r.At.Root)
	if err != nil {
		return ledger.Params{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.params, a.paramsAt = &m.Params, a.cfg.Now()
	return m.Params, nil
}

// A purse is a key that signs transactions here, and the highest nonce given out
// for its account.
type purse struct {
	key  keys.Private
	high uint64
}

// purseLocked is the purse of an address; of one that has no account yet it is
// the account's, for whose first transaction that is refused.
func (a *Agent) purseLocked(address top.Address) *purse {
	if p, ok := a.purses[address]; ok {
		return p
	}
	return a.purses[a.address]
}

// nextNonce gives out a nonce that no transaction of this agent has.
func (a *Agent) nextNonce(b Balance) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.purseLocked(b.Key)
	p.high = max(p.high, b.Nonce) + 1
	return p.high
}
