package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto/merkle"
	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/stake"
	"top/lib/top"
)

// refused checks a refusal: its kind, and words that say why.
func refused(t *testing.T, err, kind error, words string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(fmt.Sprint(err), words) {
		t.Errorf("got %v, want %v that says %q", err, kind, words)
	}
}

func TestC7_ALightClientPassesOnTheTruth(t *testing.T) {
	w := newWorld(t)
	w.growTo(3)
	pay, open, reg := w.pay(someone(2), top.One), w.open(5*top.One), w.register("vpn")
	w.grow(pay, open)
	w.grow(reg)
	w.growTo(9)
	l := w.lightOf(&liar{world: w})
	ctx := t.Context()

	a, err := l.api.Account(ctx, someone(2))
	if err != nil || !a.Exists || a.Balance != top.One-100_000 || a.At.Height != 9 {
		t.Errorf("account %+v, %v", a, err)
	}
	if a, err = l.api.Account(ctx, someone(3)); err != nil || a.Exists {
		t.Errorf("no account %+v, %v", a, err)
	}
	var ids []top.ID
	err = l.api.Channels(ctx, w.rich.Public(), func(c api.Channel) error {
		ids = append(ids, c.Channel)
		if c.Payer != w.rich.Public() || c.Provider != someone(1) || c.Cap != 5*top.One {
			t.Errorf("channel %+v", c)
		}
		return nil
	})
	if err != nil || len(ids) != 1 {
		t.Fatalf("channels %v, %v", ids, err)
	}
	if c, err := l.api.Channel(ctx, ids[0]); err != nil || !c.Exists || c.Payer != w.rich.Public() {
		t.Errorf("channel %+v, %v", c, err)
	}
	if c, err := l.api.Channel(ctx, top.ID{1}); err != nil || c.Exists {
		t.Errorf("no channel %+v, %v", c, err)
	}
	sold := 0
	for _, service := range []string{"vpn", "", "media"} {
		err = l.api.Nodes(ctx, service, func(n api.Node) error { sold++; return nil })
		if err != nil {
			t.Error(err)
		}
	}
	if sold != 2 {
		t.Errorf("%d nodes were shown, want it twice", sold)
	}
	tx, err := l.api.Tx(ctx, ledger.ID(pay), 0)
	if err != nil || !tx.OK || tx.Height != 4 || tx.From != w.rich.Public() || tx.Fee == 0 {
		t.Errorf("transaction %+v, %v", tx, err)
	}
	p, err := l.api.Params(ctx)
	if err != nil || p.Chain != w.chain || p.Accounts != 3 {
		t.Errorf("parameters %+v, %v", p, err)
	}
	lb, err := l.api.LightBlock(ctx, 5, 0)
	if err != nil || lb.Height != 5 {
		t.Errorf("header %+v, %v", lb, err)
	}
	if _, err := l.api.Submit(ctx, w.pay(someone(4), 1)); err != nil {
		t.Errorf("submit: %v", err)
	}
	eventually(t, "the supply in status", func() bool {
		s, err := l.api.Status(ctx)
		return err == nil && s.Role == "light" && s.Supply == p.Supply && s.Peers == 1 && s.TrustHeight == 1 && s.Validators == 4 && !s.Stale
	})
	if err := l.stop(); err != nil {
		t.Error(err)
	}
}

// resign is a header changed and signed anew by the first n validators.
func (w *world) resign(height, n int, change func(*types.Header)) *types.LightBlock {
	h := *w.blocks[height-1].lb.Header
	change(&h)
	return w.sign(&h, n)
}

// stranger is the world with validators that nobody chose.
func (w *world) stranger() *world {
	s := *w
	s.vals = otherKeys(len(w.vals))
	return &s
}

func TestC7_AFalseHeaderIsRefused(t *testing.T) {
	w := newWorld(t).growTo(9)
	other := newWorld(t)
	for _, tc := range []struct {
		name  string
		false func() *types.LightBlock
		words string
	}{
		{"a vote that does not verify", func() *types.LightBlock {
			lb := w.resign(9, 4, func(*types.Header) {})
			lb.Commit.Signatures[0].Signature[3] ^= 1
			return lb
		}, "wrong signature"},
		{"too few votes", func() *types.LightBlock { return w.resign(9, 2, func(*types.Header) {}) }, "invalid commit -- insufficient voting power"},
		{"votes of strangers", func() *types.LightBlock {
			s := w.stranger()
			return s.resign(9, 4, func(h *types.Header) { h.ValidatorsHash = s.set().Hash() })
		}, "header 9 is false"},
		{"validators that the header does not name", func() *types.LightBlock {
			lb := *w.blocks[8].lb
			lb.ValidatorSet = w.stranger().set()
			return &lb
		}, "validator set hash"},
		{"another chain", func() *types.LightBlock {
			return w.resign(9, 4, func(h *types.Header) { h.ChainID = top.ChainID{9}.String() })
		}, "another chain"},
		{"a root that nobody signed", func() *types.LightBlock {
			lb := w.resign(9, 4, func(*types.Header) {})
			h := *lb.Header
			h.AppHash = make([]byte, 32)
			lb.SignedHeader.Header = &h
			return lb
		}, "commit signs block"},
		{"from the future", func() *types.LightBlock {
			return w.resign(9, 4, func(h *types.Header) { h.Time = time.Now().Add(time.Hour) })
		}, "from the future"},
		{"before the last", func() *types.LightBlock {
			return w.resign(9, 4, func(h *types.Header) { h.Time = other.time(1).Add(-time.Hour) })
		}, "to be after old header time"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &liar{world: w}
			f.header = func(h int) *types.LightBlock {
				if h == 9 {
					return tc.false()
				}
				return nil
			}
			l := w.lightOf(f)
			eventually(t, "a beginning", func() bool { _, ok := l.headers.head(); return ok })
			_, err := l.api.LightBlock(t.Context(), 9, 0)
			refused(t, err, top.ErrFailed, tc.words)
			_, err = l.api.Account(t.Context(), someone(1))
			refused(t, err, top.ErrFailed, tc.words)
			if s, err := l.api.Status(t.Context()); err != nil || s.Height >= 9 || s.Evidence != 0 {
				t.Errorf("status %+v, %v", s, err)
			}
		})
	}
}

func TestC7_AnotherBeginningIsRefused(t *testing.T) {
	w := newWorld(t).growTo(3)
	first := w.blocks[0].lb
	for _, tc := range []struct {
		name, trust string
		false       *types.LightBlock
		kind        error
		words       string
	}{
		{"validators that the genesis does not name", "", w.stranger().resign(1, 4, func(h *types.Header) { h.ValidatorsHash = w.stranger().set().Hash() }), top.ErrFailed, "not those of the genesis"},
		{"another root", "", w.resign(1, 4, func(h *types.Header) { h.AppHash = make([]byte, 32) }), top.ErrFailed, "its root is not that of the genesis"},
		{"too few votes", "", w.resign(1, 2, func(*types.Header) {}), top.ErrFailed, "the first header is false"},
		{"another block", "", w.blocks[1].lb, top.ErrFailed, "asked for block 1"},
		{"a block that nobody trusts", "1:" + strings.Repeat("00", 32), first, top.ErrFailed, "--trust says 00"},
		{"too old", "", nil, top.ErrFailed, "too old to trust"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &liar{world: w, header: func(h int) *types.LightBlock { return tc.false }}
			cfg := w.config(f)
			cfg.Trust = tc.trust
			l, err := NewLight(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if tc.false == nil {
				l.headers.now = func() time.Time { return time.Now().Add(trustingPeriod) }
			}
			err = l.look(t.Context())
			refused(t, err, tc.kind, tc.words)
			if _, ok := l.headers.head(); ok {
				t.Error("it began all the same")
			}
		})
	}
	for _, trust := range []string{"x", "1", "0:" + strings.Repeat("00", 32), "1:zz", ":"} {
		cfg := w.config(&liar{world: w})
		cfg.Trust = trust
		_, err := NewLight(cfg)
		refused(t, err, top.ErrUsage, "--trust")
	}
	_, err := NewLight(LightConfig{Home: lightHome(t, w.genesis)})
	refused(t, err, top.ErrUsage, "--peer")
	_, err = NewLight(LightConfig{Home: lightHome(t, w.genesis), Peers: []string{"localhost"}})
	refused(t, err, top.ErrInvalid, "want /ip4/")
}

func TestC7_AFalseProofIsRefused(t *testing.T) {
	w := newWorld(t)
	w.growTo(2)
	w.grow(w.pay(someone(2), top.One), w.open(top.One))
	w.grow(w.open(2*top.One), w.register("vpn"))
	old := &liar{world: w, height: 3}
	w.growTo(6)
	now := &liar{world: w}
	bob := someone(1)
	ask := func(f *liar, a top.Address) api.Account {
		s, at := f.at()
		i, _ := s.Index(a)
		return accountRecord(s.Params(), a, ledger.Account{}, i, true, at, s.ProveAccount(a).Encode())
	}
	state, _ := now.at()
	chans := state.ChannelsOf(0)
	account := func(lie func(api.Account) api.Account) *liar { return &liar{world: w, account: lie} }
	getAccount := func(l *runningLight) error { _, err := l.api.Account(l.ctx(), bob); return err }
	getChannel := func(l *runningLight) error { _, err := l.api.Channel(l.ctx(), chans[0]); return err }
	getChannels := func(l *runningLight) error {
		return l.api.Channels(l.ctx(), w.rich.Public(), func(api.Channel) error { return errors.New("it was shown") })
	}
	getNode := func(l *runningLight) error {
		_, err := l.api.Node(l.ctx(), keys.FromSeed([32]byte{0xbb}).Public())
		return err
	}
	getNodes := func(l *runningLight) error {
		return l.api.Nodes(l.ctx(), "vpn", func(api.Node) error { return errors.New("it was shown") })
	}
	val := state.Stake().Validators()[0]
	getValidator := func(l *runningLight) error { _, err := l.api.Validator(l.ctx(), val); return err }
	getStakes := func(l *runningLight) error {
		return l.api.Stakes(l.ctx(), w.rich.Public(), func(api.Stake) error { return errors.New("it was shown") })
	}
	stakes := func(lie func([]api.Stake) []api.Stake) *liar { return &liar{world: w, stakes: lie} }
	for _, tc := range []struct {
		name  string
		liar  *liar
		get   func(*runningLight) error
		words string
	}{
		{"a changed validator", &liar{world: w, validator: func(r api.Validator) api.Validator { r.Proof[len(r.Proof)-1] ^= 1; return r }}, getValidator, "refused"},
		{"a validator of another owner", &liar{world: w, validator: func(r api.Validator) api.Validator { r.Owner = bob; return r }}, getValidator, "is not account 0"},
		{"absence of another validator", &liar{world: w, validator: func(api.Validator) api.Validator {
			s, at := now.at()
			return validatorAt(s, top.ValidatorID{9}, at)
		}}, getValidator, "the proof is of row"},
		{"a stake of another account", stakes(func(rs []api.Stake) []api.Stake { rs[0].AccountIx = 1; return rs }), getStakes, "is not account 1"},
		{"a stake twice", stakes(func(rs []api.Stake) []api.Stake { return append(rs, rs[0]) }), getStakes, "listed twice"},
		{"a stake with another validator", stakes(func(rs []api.Stake) []api.Stake { rs[0].Validator = rs[1].Validator; return rs }), getStakes, "the proof is of row"},
		{"a stake in another pool", stakes(func(rs []api.Stake) []api.Stake { rs[0].Pool = rs[1].Pool; return rs }), getStakes, "the proof is of row"},
		{"a stake that is not there", stakes(func(rs []api.Stake) []api.Stake {
			s, _ := now.at()
			rs[0].Validator = top.ValidatorID{9}
			rs[0].Proof = s.ProveStake(stake.DelegationRow(rs[0].Validator, 0)).Encode()
			return rs
		}), getStakes, "is not there"},
		{"a stake as a lot", stakes(func(rs []api.Stake) []api.Stake { rs[0].State = "leaving"; return rs }), getStakes, "the proof is of row"},
		{"a changed proof", account(func(r api.Account) api.Account { r.Proof[40] ^= 1; return r }), getAccount, "does not lead to the root"},
		{"a changed page", account(func(r api.Account) api.Account { r.Proof[len(r.Proof)/2] ^= 1; return r }), getAccount, "the answer of a is refused"},
		{"a cut proof", account(func(r api.Account) api.Account { r.Proof = r.Proof[:50]; return r }), getAccount, "the answer of a is refused"},
		{"no proof", account(func(r api.Account) api.Account { r.Proof = nil; return r }), getAccount, "the answer of a is refused"},
		{"more than a proof", account(func(r api.Account) api.Account { r.Proof = append(r.Proof, 0); return r }), getAccount, "the answer of a is refused"},
		{"the proof of another account", account(func(api.Account) api.Account { return ask(now, w.rich.Public()) }), getAccount, "the proof is of"},
		{"the proof of another height", account(func(r api.Account) api.Account { r.Proof = ask(old, bob).Proof; return r }), getAccount, "does not lead to the root"},
		{"an old proof with its header", account(func(api.Account) api.Account { return ask(old, bob) }), getAccount, "is of block 3"},
		{"a header that does not exist", account(func(r api.Account) api.Account { r.At.Height = 99; return r }), getAccount, "no block 99"},
		{"a height beyond all", account(func(r api.Account) api.Account { r.At.Height = 1<<64 - 1; return r }), getAccount, ""},
		{"no height", account(func(r api.Account) api.Account { r.At.Height = 0; return r }), getAccount, "is of block 0"},
		{"absence for what is there", account(func(api.Account) api.Account {
			s, at := now.at()
			return accountRecord(s.Params(), bob, ledger.Account{}, 0, false, at, s.ProveAccount(someone(9)).Encode())
		}), getAccount, "the proof is of"},
		{"a changed channel", &liar{world: w, channel: func(r api.Channel) api.Channel { r.Proof[len(r.Proof)-3] ^= 1; return r }}, getChannel, "refused"},
		{"another channel", &liar{world: w, channel: func(r api.Channel) api.Channel {
			s, at := now.at()
			return channelAt(s, chans[1], at)
		}}, getChannel, "the proof is of channel"},
		{"a channel of another payer", &liar{world: w, channel: func(r api.Channel) api.Channel { r.Payer = bob; return r }}, getChannel, "is not account 0"},
		{"a channel of another provider", &liar{world: w, channel: func(r api.Channel) api.Channel { r.Provider = someone(2); return r }}, getChannel, "is not account 1"},
		{"a channel is hidden", &liar{world: w, channels: func(rs []api.Channel) []api.Channel { return rs[1:] }}, getChannels, "pays for 2 channels, 1 were shown"},
		{"a channel hides behind another", &liar{world: w, channels: func(rs []api.Channel) []api.Channel { return []api.Channel{rs[0], rs[0]} }}, getChannels, "listed twice"},
		{"another node", &liar{world: w, node: func(r api.Node) api.Node { r.Owner = bob; return r }}, getNode, "is not account 0"},
		{"a changed node", &liar{world: w, node: func(r api.Node) api.Node { r.Proof[len(r.Proof)-1] ^= 1; return r }}, getNode, "refused"},
		{"absence of another node", &liar{world: w, node: func(api.Node) api.Node {
			s, at := now.at()
			return nodeAt(s, top.NodeID{9}, at)
		}}, getNode, "the proof is of node"},
		{"a channel between others", &liar{world: w, channels: func([]api.Channel) []api.Channel {
			s, at := now.at()
			return []api.Channel{channelAt(s, chans[0], at)}
		}}, func(l *runningLight) error {
			return l.api.Channels(l.ctx(), someone(2), func(api.Channel) error { return errors.New("it was shown") })
		}, "is between others"},
		{"a node twice", &liar{world: w, nodes: func(rs []api.Node) []api.Node { return append(rs, rs[0]) }}, getNodes, "listed twice"},
		{"a node that sells something else", &liar{world: w, nodes: func([]api.Node) []api.Node {
			s, at := now.at()
			return []api.Node{nodeAt(s, s.Nodes("")[0], at)}
		}}, func(l *runningLight) error {
			return l.api.Nodes(l.ctx(), "media", func(api.Node) error { return errors.New("it was shown") })
		}, `does not sell "media"`},
		{"false parameters", &liar{world: w, params: func(r api.Params) api.Params { r.Proof[len(r.Proof)-1] ^= 1; return r }}, getAccount, "does not lead to the root"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := w.lightOf(tc.liar)
			l.settled(t, 6)
			refused(t, tc.get(l), top.ErrFailed, tc.words)
		})
	}
	t.Run("fields beside the proof", func(t *testing.T) {
		l := w.lightOf(account(func(r api.Account) api.Account { r.Balance, r.Exists, r.Nonce = 77*top.One, false, 5; return r }))
		if a, err := l.api.Account(t.Context(), bob); err != nil || !a.Exists || a.Balance != top.One || a.Nonce != 0 {
			t.Errorf("account %+v, %v", a, err)
		}
	})
}

// ctx is enough for a test that asks and does not wait.
func (l *runningLight) ctx() context.Context { return context.Background() }

func TestC7_AFalseTransactionIsRefused(t *testing.T) {
	w := newWorld(t)
	w.growTo(2)
	good := w.pay(someone(2), top.One)
	bad := w.pay(someone(3), 5000*top.One) // more than there is
	w.grow(good, bad)
	later := w.pay(someone(2), 2*top.One)
	w.grow(later)
	w.growTo(7)
	honest := &liar{world: w}
	proof := func(r api.Tx, change func(*TxProof)) api.Tx {
		p, err := DecodeTxProof(r.Proof)
		if err != nil {
			t.Fatal(err)
		}
		change(&p)
		r.Proof = p.Encode()
		return r
	}
	for _, tc := range []struct {
		name  string
		of    []byte
		lie   func(api.Tx) (api.Tx, error)
		kind  error
		words string
	}{
		{"it was refused, says the peer", good, func(r api.Tx) (api.Tx, error) {
			return proof(r, func(p *TxProof) { p.Outcome.Code = 4 }), nil
		}, top.ErrFailed, "its result is not that of block 3"},
		{"it was done, says the peer", bad, func(r api.Tx) (api.Tx, error) {
			return proof(r, func(p *TxProof) { p.Outcome.Code = 0 }), nil
		}, top.ErrFailed, "its result is not that of block 3"},
		{"another fee", good, func(r api.Tx) (api.Tx, error) {
			return proof(r, func(p *TxProof) { p.Outcome.Fee++ }), nil
		}, top.ErrFailed, "its result is not that of block 3"},
		{"another block", good, func(r api.Tx) (api.Tx, error) {
			return proof(r, func(p *TxProof) { p.Height = 4 }), nil
		}, top.ErrFailed, "its result is not that of block 4"},
		{"block 0", good, func(r api.Tx) (api.Tx, error) {
			return proof(r, func(p *TxProof) { p.Height = 0 }), nil
		}, top.ErrFailed, "for height 0"},
		{"another place", good, func(r api.Tx) (api.Tx, error) {
			return proof(r, func(p *TxProof) { p.Index = 1 }), nil
		}, top.ErrFailed, "its result is not that of block 3"},
		{"a tree of its own", good, func(r api.Tx) (api.Tx, error) {
			return proof(r, func(p *TxProof) {
				p.Outcome.Fee++
				p.Index, p.Total, p.Bundles, p.InBlock = 0, 1, 1, nil
				p.Root = top.ID(merkle.HashFromByteSlices([][]byte{leaf(p.ID, p.Outcome)}))
			}), nil
		}, top.ErrFailed, "its result is not that of block 3"},
		{"fewer in the block", good, func(r api.Tx) (api.Tx, error) {
			return proof(r, func(p *TxProof) { p.Total, p.Bundles, p.InBlock = 1, 1, nil }), nil
		}, top.ErrFailed, "its result is not that of block 3"},
		{"the result of another", good, func(r api.Tx) (api.Tx, error) {
			b, err := honest.find(ledger.ID(bad))
			o, e := DecodeTxProof(b.Proof)
			return proof(r, func(p *TxProof) { p.Outcome, p.InBlock = o.Outcome, o.InBlock }), errors.Join(err, e)
		}, top.ErrFailed, "its result is not that of block 3"},
		{"another transaction", good, func(api.Tx) (api.Tx, error) { return honest.find(ledger.ID(later)) }, top.ErrFailed, "of another transaction"},
		{"other bytes", good, func(r api.Tx) (api.Tx, error) { r.Raw = later; return r, nil }, top.ErrFailed, "of another transaction"},
		{"no proof", good, func(r api.Tx) (api.Tx, error) { r.Proof = nil; return r, nil }, top.ErrFailed, "refused"},
		{"somebody else's failure", bad, func(r api.Tx) (api.Tx, error) { r.From = someone(1); return r, nil }, top.ErrFailed, "is not account 0"},
		{"withheld", good, func(api.Tx) (api.Tx, error) {
			return api.Tx{}, top.Errorf(top.NotFound, "no such \x1b[2Jtransaction")
		}, top.ErrNotFound, "no such [2Jtransaction"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &liar{world: w, tx: tc.lie}
			l := w.lightOf(f)
			l.settled(t, 7)
			r, err := l.api.Tx(t.Context(), ledger.ID(tc.of), 0)
			refused(t, err, tc.kind, tc.words)
			if err == nil {
				t.Errorf("shown as %+v", r)
			}
			// With an honest peer beside it the lie changes nothing.
			l = w.lightOf(f, honest)
			r, err = l.api.Tx(t.Context(), ledger.ID(tc.of), 0)
			if err != nil || r.OK != (string(tc.of) == string(good)) || r.Height != 3 || r.From != w.rich.Public() {
				t.Errorf("beside an honest peer: %+v, %v", r, err)
			}
		})
	}
	t.Run("fields beside the proof", func(t *testing.T) {
		l := w.lightOf(&liar{world: w, tx: func(r api.Tx) (api.Tx, error) {
			r.OK, r.Code, r.Error, r.Height, r.From, r.Fee, r.Kind = !r.OK, 9, "busy", 77, someone(9), 5, "lock"
			r.Message = "\x1b]0;gone\x07"
			return r, nil
		}})
		r, err := l.api.Tx(t.Context(), ledger.ID(good), 0)
		if err != nil || !r.OK || r.Code != 0 || r.Error != "" || r.Message != "" || r.Height != 3 || r.From != w.rich.Public() || r.Fee == 5 || r.Kind != "transfer" {
			t.Errorf("transaction %+v, %v", r, err)
		}
	})
}

func TestC8_TheNewestHeaderNeverGoesBack(t *testing.T) {
	w := newWorld(t)
	w.growTo(5)
	pay := w.pay(someone(2), top.One)
	w.grow(pay)
	w.growTo(20)
	var back atomic.Bool
	f := &liar{world: w}
	f.header = func(h int) *types.LightBlock {
		if back.Load() && h == 20 {
			return w.blocks[4].lb // asked for the newest, it shows block 5
		}
		return nil
	}
	cfg := w.config(f)
	l := startLight(t, cfg)
	l.settled(t, 20)
	if _, err := l.api.Tx(t.Context(), ledger.ID(pay), 0); err != nil {
		t.Fatal(err)
	}
	back.Store(true)
	if err := l.look(t.Context()); err != nil {
		t.Errorf("an older header of the same chain is no lie: %v", err)
	}
	old := liar{world: w, height: 5}
	s, at := old.at()
	f.account = func(r api.Account) api.Account {
		return accountRecord(s.Params(), r.Address, ledger.Account{}, 0, false, at, s.ProveAccount(r.Address).Encode())
	}
	_, err := l.api.Account(t.Context(), someone(2))
	refused(t, err, top.ErrFailed, "the answer is of block 5, this light client has verified what follows")
	lb, err := l.api.LightBlock(t.Context(), 0, 0)
	if err != nil || lb.Height != 20 {
		t.Errorf("newest %d, %v", lb.Height, err)
	}

	// After kill -9 it goes on from what was on disk at that moment.
	var kept []byte
	eventually(t, "the header on disk", func() bool { kept, err = os.ReadFile(l.files.light()); return err == nil })
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.files.light(), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Sock = ""
	silent := *f
	silent.header = func(int) *types.LightBlock { return w.resign(20, 1, func(*types.Header) {}) }
	next := w.config(&silent)
	next.Home = cfg.Home
	l = startLight(t, next)
	st, err := l.api.Status(t.Context())
	if err != nil || st.Height != 20 || st.TrustHeight != 20 {
		t.Errorf("after a restart: %+v, %v", st, err)
	}
	_, err = l.api.Account(t.Context(), someone(2))
	refused(t, err, top.ErrFailed, "the answer is of block 5")
}

func TestC7_SignedContradictionsAreEvidence(t *testing.T) {
	for _, tc := range []struct {
		name   string
		heads  [2]int // of the two peers
		signed int    // validators that sign the other chain
		want   int    // files of evidence
	}{
		{"of one height", [2]int{9, 9}, 4, 2},
		{"of different heights", [2]int{9, 12}, 4, 2},
		{"the other is behind", [2]int{12, 8}, 4, 2},
		{"signed by too few", [2]int{9, 9}, 2, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t).growTo(12)
			f := w.fork(5)
			f.grow(f.pay(someone(7), top.One))
			f.growTo(12)
			other := &liar{world: f, height: tc.heads[1]}
			if tc.signed < 4 {
				other.header = func(h int) *types.LightBlock {
					if h > 5 {
						return w.sign(f.blocks[h-1].lb.Header, tc.signed)
					}
					return nil
				}
			}
			cfg := w.config(&liar{world: w, height: tc.heads[0]}, other)
			l := startLight(t, cfg)
			eventually(t, "a head", func() bool { h, ok := l.headers.head(); return ok && h.Height > 1 })
			evidence := func() int { s, _ := l.api.Status(l.ctx()); return s.Evidence }
			if tc.want == 0 {
				if err := l.look(t.Context()); err != nil || evidence() != 0 {
					t.Errorf("%d kept, %v", evidence(), err)
				}
				if a, err := l.api.Account(t.Context(), someone(1)); err != nil || !a.Exists {
					t.Errorf("the lie stopped it: %v", err)
				}
				return
			}
			eventually(t, "evidence", func() bool { return evidence() == tc.want })
			_, err := l.api.Account(t.Context(), someone(1))
			refused(t, err, top.ErrFailed, "validators signed two chains")
			_, err = l.api.Submit(t.Context(), w.pay(someone(4), 1))
			refused(t, err, top.ErrFailed, "validators signed two chains")
			if err := l.stop(); err != nil {
				t.Fatal(err)
			}
			names, err := filepath.Glob(filepath.Join(l.files.evidence(), "*"))
			if err != nil || len(names) != tc.want {
				t.Fatalf("evidence %v, %v", names, err)
			}
			var hashes []string
			for _, name := range names {
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				lb, err := parseLightBlock(b)
				if err != nil {
					t.Fatal(err)
				}
				if err := w.set().VerifyCommitLight(w.chain.String(), lb.Commit.BlockID, lb.Height, lb.Commit); err != nil {
					t.Errorf("%s is not signed: %v", name, err)
				}
				hashes = append(hashes, lb.Hash().String())
			}
			if hashes[0] == hashes[1] {
				t.Error("the evidence is one header twice")
			}
			// It stays so after a restart, until a person decides.
			next := w.config(&liar{world: w})
			next.Home = cfg.Home
			l = startLight(t, next)
			_, err = l.api.Account(t.Context(), someone(1))
			refused(t, err, top.ErrFailed, "top-chain init --light --trust")
		})
	}
}

// told reads events of a light client until n of them came.
func told(t *testing.T, l *runningLight, since top.Height, n int) (lines []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = l.api.Events(ctx, since, func(raw json.RawMessage) error {
		var e struct {
			Type   string
			Height top.Height
			Index  int
			Txs    int
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		switch e.Type {
		case "tx":
			lines = append(lines, fmt.Sprintf("tx %s.%d", e.Height, e.Index))
		case "gap":
			lines = append(lines, "gap")
		default:
			lines = append(lines, fmt.Sprintf("block %s of %d", e.Height, e.Txs))
		}
		if len(lines) == n {
			cancel()
		}
		return nil
	})
	if len(lines) == n {
		err = nil
	}
	return lines, err
}

func TestC7_FalseEventsAreRefused(t *testing.T) {
	w := newWorld(t)
	w.growTo(2)
	w.grow(w.pay(someone(2), 1e9), w.pay(someone(3), 1e9), w.pay(someone(4), 1e9))
	w.growTo(6)
	honest := &liar{world: w}
	all := []string{"block 1 of 0", "block 2 of 0", "block 3 of 3", "tx 3.0", "tx 3.1", "tx 3.2", "block 4 of 0", "block 5 of 0"}
	record := func(c *sock.Call, h, txs int) error {
		at := headerOf(w.blocks[h-1].lb)
		return c.Record(api.Event{Type: "block", Height: at.Height, Time: at.Time, Hash: at.Hash, Root: at.Root, Txs: txs})
	}
	for _, tc := range []struct {
		name  string
		lie   func(*sock.Call) error
		upTo  int // lines of all that are true before the lie
		words string
	}{
		{"a block left out", func(c *sock.Call) error { return errors.Join(record(c, 1, 0), honest.show(c, 3)) }, 1, "block 3 where 2 follows"},
		{"a block again", func(c *sock.Call) error { return errors.Join(record(c, 1, 0), record(c, 1, 0)) }, 1, "block 1 where 2 follows"},
		{"transactions left out", func(c *sock.Call) error {
			return errors.Join(record(c, 1, 0), record(c, 2, 0), record(c, 3, 3), c.Record(honest.final(3, 0)), record(c, 4, 0))
		}, 4, "2 transactions of block 3 are missing"},
		{"too few transactions announced", func(c *sock.Call) error {
			return errors.Join(record(c, 1, 0), record(c, 2, 0), record(c, 3, 2), c.Record(honest.final(3, 0)))
		}, 2, "is number 0 of 3 in block 3"},
		{"no transactions in a block that has some", func(c *sock.Call) error {
			return errors.Join(record(c, 1, 0), record(c, 2, 0), record(c, 3, 0))
		}, 2, "does not hold 0 transactions"},
		{"the order changed", func(c *sock.Call) error {
			return errors.Join(record(c, 1, 0), record(c, 2, 0), record(c, 3, 3), c.Record(honest.final(3, 1)))
		}, 2, "is final there"},
		{"a transaction that is nowhere", func(c *sock.Call) error {
			return errors.Join(record(c, 1, 0), record(c, 2, 0), record(c, 3, 3), c.Record(api.Tx{Type: "tx", ID: top.ID{7}}))
		}, 2, "is final"},
		{"a gap beyond the newest", func(c *sock.Call) error { return c.Record(map[string]any{"type": "gap", "lost": "99"}) }, 0, "a gap of 99 blocks"},
		{"a gap that wraps around", func(c *sock.Call) error {
			return c.Record(map[string]any{"type": "gap", "lost": "18446744073709551615"})
		}, 0, "a gap of"},
		{"the stream ends", func(c *sock.Call) error { return record(c, 1, 0) }, 1, "ended the stream"},
		{"a record without end", func(c *sock.Call) error {
			return c.Record(map[string]string{"type": "block", "more": strings.Repeat("x", maxPeerRecord)})
		}, 0, "longer than 1024 KiB"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &liar{world: w, events: func(c *sock.Call, since top.Height) error {
				if since != 0 {
					<-c.Context().Done()
					return nil
				}
				return tc.lie(c)
			}}
			l := w.lightOf(f)
			l.settled(t, 6)
			lines, err := told(t, l, 0, -1)
			if err == nil || !strings.Contains(err.Error(), tc.words) || !slices.Equal(lines, all[:tc.upTo]) {
				t.Errorf("told %v, then %v; want %v, then %q", lines, err, all[:tc.upTo], tc.words)
			}
			// An honest peer goes on where the liar was caught.
			l = w.lightOf(f, honest)
			l.settled(t, 6)
			if lines, err = told(t, l, 0, len(all)); err != nil || !slices.Equal(lines, all) {
				t.Errorf("beside an honest peer: %v, %v", lines, err)
			}
		})
	}
}

// A transaction that was handed in at two nodes may stand in two blocks, or in one twice,
// and one that failed for nothing may succeed later. Each is shown where it stands.
func TestC7_WhatStandsTwiceIsShownTwice(t *testing.T) {
	w := newWorld(t)
	w.growTo(2)
	pay := w.pay(someone(2), 1e9)
	w.grow(pay, w.pay(someone(3), 1e9))
	w.grow(pay, pay)
	w.growTo(6)
	l := w.lightOf(&liar{world: w})
	l.settled(t, 6)
	want := []string{"block 3 of 2", "tx 3.0", "tx 3.1", "block 4 of 2", "tx 4.0", "tx 4.1", "block 5 of 0"}
	if lines, err := told(t, l, 2, len(want)); err != nil || !slices.Equal(lines, want) {
		t.Errorf("told %v, %v; want %v", lines, err, want)
	}
	id := ledger.ID(pay)
	for _, tc := range []struct {
		height top.Height
		index  uint32
		ok     bool
	}{{3, 0, true}, {4, 0, false}, {4, 1, false}} {
		r, err := l.api.TxAt(t.Context(), id, tc.height, tc.index)
		if err != nil || r.OK != tc.ok || r.Height != tc.height || r.Index != tc.index || (r.Fee > 0) != tc.ok {
			t.Errorf("at %s.%d: %+v, %v", tc.height, tc.index, r, err)
		}
	}
	_, err := l.api.TxAt(t.Context(), id, 3, 1)
	refused(t, err, top.ErrNotFound, "is final there")
	// A peer that answers with another place is refused.
	l = w.lightOf(&liar{world: w, deaf: true})
	l.settled(t, 6)
	_, err = l.api.TxAt(t.Context(), id, 4, 1)
	refused(t, err, top.ErrFailed, "is not number 1 of block 4")
	if lines, err := told(t, l, 2, -1); err == nil || !slices.Equal(lines, want[:3]) {
		t.Errorf("of a peer that shows the first place only: %v, %v", lines, err)
	}
}

func TestC7_AnAnswerTooLongIsRefused(t *testing.T) {
	w := newWorld(t).growTo(3)
	long := strings.Repeat("x", maxPeerAnswer)
	for _, tc := range []struct {
		name   string
		answer func(http.ResponseWriter)
		kind   error
		words  string
	}{
		{"a long answer", func(rw http.ResponseWriter) { fmt.Fprintf(rw, `{"type":"account","more":%q}`, long) }, top.ErrFailed, "longer than 4096 KiB"},
		{"an answer without end", func(rw http.ResponseWriter) {
			for err := error(nil); err == nil; _, err = rw.Write([]byte(long)) {
			}
		}, top.ErrFailed, "longer than 4096 KiB"},
		{"not JSON", func(rw http.ResponseWriter) { fmt.Fprint(rw, "hello") }, top.ErrFailed, "answer of /v1/accounts"},
		{"nothing", func(http.ResponseWriter) {}, top.ErrFailed, "answer of /v1/accounts"},
		{"an error that steers the terminal", func(rw http.ResponseWriter) {
			rw.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(rw, `{"error":{"kind":"invalid","message":"a\u001b[31mred\nword"}}`)
		}, top.ErrInvalid, "a[31mredword"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := (&liar{world: w}).handler()
			d := newDoors(t)
			d.add("a", http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
				if strings.HasPrefix(q.URL.Path, "/v1/accounts/") {
					tc.answer(rw)
					return
				}
				h.ServeHTTP(rw, q)
			}))
			l := startLight(t, LightConfig{Home: lightHome(t, w.genesis), Peers: []string{"a"}, dial: d.dial})
			_, err := l.api.Account(t.Context(), someone(1))
			refused(t, err, tc.kind, tc.words)
		})
	}
}

func TestAPeerThatHangsDelaysNobody(t *testing.T) {
	w := newWorld(t)
	w.growTo(3)
	pay := w.pay(someone(2), top.One)
	w.grow(pay)
	w.growTo(6)
	d := newDoors(t)
	d.add("a", http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }))
	d.add("b", (&liar{world: w}).handler())
	l := startLight(t, LightConfig{Home: lightHome(t, w.genesis), Peers: []string{"a", "b"}, dial: d.dial})
	ctx, cancel := context.WithTimeout(t.Context(), peerWait/2)
	defer cancel()
	if a, err := l.api.Account(ctx, someone(1)); err != nil || !a.Exists {
		t.Errorf("account %+v, %v", a, err)
	}
	if r, err := l.api.Tx(ctx, ledger.ID(pay), time.Minute); err != nil || !r.OK {
		t.Errorf("transaction %+v, %v", r, err)
	}
	if _, err := l.api.Submit(ctx, w.pay(someone(2), 1)); err != nil {
		t.Errorf("submit: %v", err)
	}
}

func TestSubmitAsksEveryPeer(t *testing.T) {
	w := newWorld(t).growTo(3)
	var got atomic.Int32
	takes := &liar{world: w, submit: func([]byte) error { got.Add(1); return nil }}
	full := &liar{world: w, submit: func([]byte) error {
		return &top.Error{Kind: top.Busy, Message: "full", RetryAfter: 24 * time.Hour}
	}}
	l := w.lightOf(full, takes)
	raw := w.pay(someone(2), 1)
	if s, err := l.api.Submit(t.Context(), raw); err != nil || s.ID != ledger.ID(raw) || got.Load() != 1 {
		t.Errorf("%+v, %v, taken %d times", s, err, got.Load())
	}
	l = w.lightOf(full)
	_, err := l.api.Submit(t.Context(), raw)
	refused(t, err, top.ErrBusy, "full")
	if top.RetryAfter(err) != maxRetry {
		t.Errorf("a stranger makes it wait %s", top.RetryAfter(err))
	}
	// What needs no state to be refused reaches nobody.
	l = w.lightOf(takes)
	got.Store(0)
	forged := slices.Clone(raw)
	forged[len(forged)-1] ^= 1
	_, err = l.api.Submit(t.Context(), forged)
	refused(t, err, top.ErrDenied, "signature")
	_, err = l.api.Submit(t.Context(), raw[:40])
	refused(t, err, top.ErrInvalid, "transaction")
	other := newWorld(t)
	other.chain = top.ChainID{9}
	_, err = l.api.Submit(t.Context(), other.pay(someone(2), 1))
	refused(t, err, top.ErrDenied, "this one is")
	if got.Load() != 0 {
		t.Errorf("%d false transactions were handed on", got.Load())
	}
}

func TestValidatorsMayChange(t *testing.T) {
	w := newWorld(t).growTo(4)
	w.next = otherKeys(5)
	w.growTo(20)
	l := w.lightOf(&liar{world: w})
	l.settled(t, 20)
	// Strangers whom no header named sign as well as anybody.
	s := newWorld(t).growTo(4)
	s.grow()
	s.vals = otherKeys(5)
	s.growTo(20)
	l = s.lightOf(&liar{world: s})
	eventually(t, "the last header of the validators known", func() bool { h, _ := l.headers.head(); return h.Height >= 5 })
	_, err := l.api.LightBlock(t.Context(), 20, 0)
	refused(t, err, top.ErrFailed, "next validators")
	if h, _ := l.headers.head(); h.Height != 5 {
		t.Errorf("newest %d", h.Height)
	}
}

func TestOldBlocksAreProvenByLinks(t *testing.T) {
	w := newWorld(t).growTo(2)
	pay := w.pay(someone(2), top.One)
	w.grow(pay)
	w.growTo(30)
	trust := fmt.Sprintf("20:%s", top.ID(w.blocks[19].lb.Hash()))
	fake := w.fork(2)
	fakePay := fake.pay(someone(2), 5*top.One)
	fake.grow(fakePay)
	fake.growTo(30)
	for _, tc := range []struct {
		name  string
		liar  *liar
		words string // "" is proven
		keeps int    // evidence
	}{
		{"true", &liar{world: w}, "", 0},
		{"a header between is unsigned", &liar{world: w, header: func(h int) *types.LightBlock {
			if h == 10 {
				return w.resign(10, 1, func(x *types.Header) { x.AppHash = make([]byte, 32) })
			}
			return nil
		}}, "header 10 is false", 0},
		{"another header between", &liar{world: w, header: func(h int) *types.LightBlock {
			if h == 10 {
				return w.blocks[10].lb
			}
			return nil
		}}, "asked for block 10, got 11", 0},
		{"a chain that was signed too", &liar{world: fake, header: func(h int) *types.LightBlock {
			if h >= 15 {
				return w.blocks[h-1].lb
			}
			return nil
		}}, "validators signed two chains", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := w.config(tc.liar)
			cfg.Trust = trust
			l := startLight(t, cfg)
			l.settled(t, 30)
			id := ledger.ID(pay)
			if tc.keeps > 0 {
				id = ledger.ID(fakePay)
			}
			r, err := l.api.Tx(t.Context(), id, 0)
			if tc.words == "" {
				if err != nil || r.Height != 3 || !r.OK {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			refused(t, err, top.ErrFailed, tc.words)
			if s, err := l.api.Status(t.Context()); err != nil || s.Evidence != tc.keeps {
				t.Errorf("evidence %d, %v", s.Evidence, err)
			}
		})
	}
}

func TestTrustBeginsWhereItSays(t *testing.T) {
	w := newWorld(t)
	f := &liar{world: w, height: 9}
	w.growTo(12)
	at := func(h int) string { return fmt.Sprintf("%d:%s", h, top.ID(w.blocks[h-1].lb.Hash())) }
	cfg := w.config(f)
	l := startLight(t, cfg)
	l.settled(t, 9)
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, trust string
		begins      top.Height
		words       string
	}{
		{"none", "", 9, ""},
		{"older", at(3), 9, ""},
		{"the same", at(9), 9, ""},
		{"newer", at(12), 12, ""},
		{"another", "9:" + strings.Repeat("00", 32), 0, "--trust says 00"},
	} {
		hs := &headers{chain: w.chain.String(), genesis: w.parsed(), path: l.files.light(), now: time.Now, byH: map[int64]*types.LightBlock{}}
		err := hs.load(tc.trust)
		if err == nil && hs.last == nil {
			err = hs.begin(t.Context(), &sourceOf{w}, tc.trust)
		}
		if tc.words != "" {
			refused(t, err, top.ErrFailed, tc.words)
		} else if err != nil || top.Height(hs.first.Height) != tc.begins {
			t.Errorf("%s: begins at %+v, %v", tc.name, hs.first, err)
		}
	}
	// A header that is too old verifies nothing: --trust replaces it, without it
	// the client says so.
	late := func() time.Time { return time.Now().Add(trustingPeriod) }
	hs := &headers{chain: w.chain.String(), genesis: w.parsed(), path: l.files.light(), now: late, byH: map[int64]*types.LightBlock{}}
	if err := hs.load(at(3)); err != nil || hs.last != nil {
		t.Errorf("an old header: %v, %v", hs.last, err)
	}
	if err := hs.load(""); err != nil {
		t.Fatal(err)
	}
	_, err := hs.accept(t.Context(), &sourceOf{w}, w.blocks[11].lb)
	refused(t, err, top.ErrFailed, "top-chain init --light --trust")
	if err := os.WriteFile(l.files.light(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, hs.load(""), top.ErrInvalid, "is damaged")
	if err := Forget(cfg.Home); err != nil {
		t.Fatal(err)
	}
	if err := Forget(cfg.Home); err != nil {
		t.Errorf("forget twice: %v", err)
	}
}

// sourceOf gives the blocks of a world.
type sourceOf struct{ *world }

func (s *sourceOf) lightBlock(_ context.Context, h top.Height, _ time.Duration) (*types.LightBlock, error) {
	return s.blocks[h-1].lb, nil
}

func TestAnOldHeadIsStale(t *testing.T) {
	for age, stale := range map[time.Duration]bool{30 * time.Second: false, 32*time.Second + staleAfter: true} {
		w := newWorldOf(t, age).growTo(1)
		l := w.lightOf(&liar{world: w})
		l.settled(t, 1)
		s, err := l.api.Status(t.Context())
		if err != nil || s.Stale != stale {
			t.Errorf("a head %s after the genesis %s ago: stale %v, %v", w.time(1), age, s.Stale, err)
		}
		if err := l.health(); (err != nil) != stale {
			t.Errorf("health: %v", err)
		}
	}
}

func TestASilentStreamIsLeft(t *testing.T) {
	w := newWorld(t).growTo(9)
	silent := &liar{world: w, events: func(c *sock.Call, _ top.Height) error { <-c.Context().Done(); return nil }}
	cfg := w.config(silent, &liar{world: w})
	cfg.patience = 50 * time.Millisecond
	l := startLight(t, cfg)
	l.settled(t, 9)
	lines, err := told(t, l, 2, 6)
	if err != nil || lines[0] != "block 3 of 0" {
		t.Errorf("beside a silent peer: %v, %v", lines, err)
	}
	// Alone it is named.
	cfg = w.config(silent)
	cfg.patience = 50 * time.Millisecond
	l = startLight(t, cfg)
	l.settled(t, 9)
	_, err = told(t, l, 2, -1)
	refused(t, err, top.ErrOffline, "keeps back")
	// Where there is nothing to show, silence is no lie.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.api.Events(ctx, 9, func(json.RawMessage) error { return nil }) }()
	idle := time.NewTimer(10 * cfg.patience)
	defer idle.Stop()
	select {
	case err := <-ended:
		t.Errorf("an idle stream ended: %v", err)
	case <-idle.C:
	}
	cancel()
}

func TestHistoryOfOthersIsRefused(t *testing.T) {
	w := newWorld(t).growTo(3)
	bob := someone(1)
	entry := func(a top.Address, seq top.Count) api.Entry {
		return api.Entry{Type: "entry", Account: a, Seq: seq, Kind: "trans\x1b[2Jfer", Way: "in", Amount: 5}
	}
	for _, tc := range []struct {
		name  string
		tells []api.Entry
		want  int
		words string
	}{
		{"true", []api.Entry{entry(bob, 1), entry(bob, 2)}, 2, ""},
		{"nothing", nil, 0, ""},
		{"of another", []api.Entry{entry(bob, 1), entry(someone(2), 2)}, 1, "does not belong"},
		{"again", []api.Entry{entry(bob, 1), entry(bob, 1)}, 1, "does not belong"},
		{"more than asked for", []api.Entry{entry(bob, 1), entry(bob, 2), entry(bob, 3), entry(bob, 4)}, 3, "does not belong"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := w.lightOf(&liar{world: w, history: func(c *sock.Call) error { return sock.Records(c, tc.tells) }})
			got := 0
			err := l.api.History(t.Context(), bob, 0, 3, func(e api.Entry) error {
				if got++; e.Kind != "trans[2Jfer" || e.Account != bob || int(e.Seq) != got {
					t.Errorf("entry %+v", e)
				}
				return nil
			})
			if got != tc.want || (tc.words == "") != (err == nil) {
				t.Errorf("%d entries, %v", got, err)
			}
			if tc.words != "" {
				refused(t, err, top.ErrFailed, tc.words)
			}
		})
	}
}

func TestC7_HeadersAreOneChain(t *testing.T) {
	w := newWorld(t).growTo(12)
	f := w.fork(5)
	f.grow(f.pay(someone(7), top.One))
	f.growTo(12)
	know := func(heights ...int) *headers {
		hs := newWorldHeaders(w)
		for _, h := range heights {
			if _, err := hs.accept(t.Context(), &sourceOf{w}, w.blocks[h-1].lb); err != nil {
				t.Fatal(err)
			}
		}
		return hs
	}
	forged := *w.blocks[10].lb
	forged.SignedHeader = w.sign(w.blocks[10].lb.Header, 1).SignedHeader
	for _, tc := range []struct {
		name   string
		known  []int
		lb     *types.LightBlock
		fork   bool // it is evidence
		words  string
		source source
	}{
		{"right below the newest", []int{12}, f.blocks[10].lb, true, "two chains", &sourceOf{f}},
		{"below the newest", []int{12}, f.blocks[8].lb, true, "two chains", &sourceOf{f}},
		{"below the newest, and the rest withheld", []int{12}, f.blocks[8].lb, false, "", nowhere{}},
		{"right above the newest", []int{9}, f.blocks[9].lb, true, "two chains", &sourceOf{f}},
		{"in the place of one", []int{9, 12}, f.blocks[8].lb, true, "two chains", &sourceOf{f}},
		{"in the place of one, unsigned", []int{9}, w.sign(f.blocks[8].lb.Header, 1), false, "not the one verified before", nowhere{}},
		{"the right header, too few votes", []int{12}, &forged, false, "insufficient voting power", nowhere{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hs := know(tc.known...)
			lb, err := hs.accept(t.Context(), tc.source, tc.lb)
			var c *conflict
			if err == nil || errors.As(err, &c) != tc.fork || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("%v, %v", lb, err)
			}
			if tc.fork && hs.signed(c.b) == false {
				t.Error("the evidence is not signed")
			}
		})
	}
	// Whoever is verified at the same time by another call is compared too.
	for _, at := range []int{8, 9, 10} {
		hs := know(9)
		hs.mu.Lock()
		_, err := hs.keepLocked(f.blocks[at-1].lb)
		hs.mu.Unlock()
		var c *conflict
		if !errors.As(err, &c) {
			t.Errorf("block %d beside 9: %v", at, err)
		}
	}
	// The cache has a limit; the first and the newest stay.
	hs := newWorldHeaders(w)
	w.growTo(keepHeaders + 20)
	hs.now = func() time.Time { return w.time(keepHeaders + 20) }
	for _, b := range w.blocks[1:] {
		if _, err := hs.accept(t.Context(), nowhere{}, b.lb); err != nil {
			t.Fatal(err)
		}
	}
	if len(hs.byH) != keepHeaders || len(hs.order) != keepHeaders || hs.last.Height != keepHeaders+20 || hs.first.Height != 1 {
		t.Errorf("%d kept, %d in order, %d to %d", len(hs.byH), len(hs.order), hs.first.Height, hs.last.Height)
	}
}
