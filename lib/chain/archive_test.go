package chain

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/top"
)

var errEnough = errors.New("enough")

// A node that lets old transactions go still proves what became of them, shows every
// history and every header, and comes back after a stop.
func TestProofsOutliveTransactions(t *testing.T) {
	n := newNetwork(t, 1)
	n.edit = func(_ int, c *Config) { c.Keep, c.Snapshots = 20, 20 }
	n.start(0)
	n.nodes[0].reach(t, 1)
	paid := n.pay(0, 1, someone(1), 2*top.One)
	batch := n.do(0, n.signed(2, &ledger.Batch{New: []top.Address{someone(2)}, Records: []ledger.Record{{Index: 0, Amount: top.One}, {Index: 1, Amount: 7}}}))
	refusedTx := n.do(0, n.signed(3, &ledger.Transfer{To: ledger.To(0), Amount: 9_000_000 * top.One}))
	for nonce := uint64(4); ; nonce++ {
		n.pay(0, nonce, someone(3), top.One)
		s, err := n.nodes[0].api.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Earliest > refusedTx.Height+1 {
			break
		}
		if nonce > 1000 {
			t.Fatalf("at block %s all since %s are kept", s.Height, s.Earliest)
		}
	}
	check := func() {
		t.Helper()
		for _, want := range []api.Tx{paid, batch, refusedTx} {
			got, err := n.nodes[0].api.Tx(t.Context(), want.ID, 0)
			if err != nil {
				t.Fatal(err)
			}
			p, err := DecodeTxProof(got.Proof)
			if err != nil || p.ID != want.ID || got.OK != want.OK || got.Kind != want.Kind || got.From != n.rich.Public() {
				t.Fatalf("%+v %v", got, err)
			}
			at, next := n.lightAt(want.Height), n.lightAt(want.Height+1)
			if err := p.Verify(at.Header, next.Header); err != nil {
				t.Errorf("%s: %v", want.Kind, err)
			}
			if (len(got.Raw) > 0) != (want.Kind == "batch") {
				t.Errorf("%s: %d bytes are kept", want.Kind, len(got.Raw))
			}
			if err := at.ValidatorSet.VerifyCommitLight(n.chain.String(), at.Commit.BlockID, at.Height, at.Commit); err != nil {
				t.Error(err)
			}
		}
		var got []top.Amount
		err := n.nodes[0].api.History(t.Context(), someone(2), 0, 0, func(e api.Entry) error {
			got = append(got, e.Amount)
			return nil
		})
		if err != nil || len(got) != 1 || got[0] != top.One {
			t.Errorf("a batch in the history: %v %v", got, err)
		}
		seen := map[string]int{}
		err = n.nodes[0].api.Events(t.Context(), 0, func(raw json.RawMessage) error {
			var e struct {
				Type   string
				Height top.Height
			}
			if err := json.Unmarshal(raw, &e); err != nil {
				return err
			}
			if seen[e.Type]++; e.Height > refusedTx.Height {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) || seen["gap"] > 0 || seen["tx"] < 3 {
			t.Errorf("watched from the start: %v %v", seen, err)
		}
	}
	check()
	n.nodes[0].stop()
	n.start(0)
	check()
	n.nodes[0].stop()
	r, err := Verify(t.Context(), n.homes[0], true, func(_, _ top.Height) {})
	if err != nil || r.From <= refusedTx.Height {
		t.Errorf("replayed: %+v, %v", r, err)
	}
}

// lightAt is the light block at a height, as node 0 gives it to anybody.
func (n *network) lightAt(h top.Height) *types.LightBlock {
	n.t.Helper()
	b, err := n.nodes[0].api.LightBlock(n.t.Context(), h, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	lb, err := parseLightBlock(b.Block)
	if err == nil {
		err = lb.ValidateBasic(n.chain.String())
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return lb
}
