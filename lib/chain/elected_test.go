package chain

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	cometed "github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/top"
)

// newStaked is a network whose validators are elected; the rich account owns all of
// them, with 100 TOP each.
func newStaked(t *testing.T, validators int, set func(*ledger.Params)) *network {
	t.Helper()
	return newNetworkOf(t, validators, func(g *ledger.Genesis, vals [][32]byte) {
		k := &g.Params.Stake
		k.EpochBlocks, k.MinSelf, k.DowntimeEpochs, k.JailSeconds, k.YieldPPM = 5, 10*top.One, 4, 0, 0
		set(&g.Params)
		for _, v := range vals {
			g.Validators = append(g.Validators, ledger.GenesisValidator{ID: v, Owner: g.Accounts[0].Address, Stake: 100 * top.One})
		}
	})
}

// id is validator i.
func (n *network) id(i int) top.ValidatorID {
	n.t.Helper()
	k, err := ConsensusKey(n.homes[i], rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	return k
}

// until asks a node for a validator until it is as wanted.
func (n *network) until(node int, id top.ValidatorID, what string, ok func(api.Validator) bool) (v api.Validator) {
	n.t.Helper()
	eventually(n.t, what, func() bool {
		var err error
		v, err = n.nodes[node].api.Validator(n.t.Context(), id)
		return err == nil && ok(v)
	})
	return v
}

// A validator that is down goes to jail and loses a little; when it is up again its
// owner takes it out, and the next election takes it. A fifth one that joins with more
// stake than room is for takes the place of another. A light client that slept through
// all of it still verifies.
func TestAValidatorSetThatChanges(t *testing.T) {
	n := newStaked(t, 4, func(p *ledger.Params) { p.Stake.MaxValidators = 4 })
	n.startAll()
	n.nodes[0].reach(t, 2)
	nonce := uint64(0)
	do := func(body ledger.Body) api.Tx {
		t.Helper()
		nonce++
		return n.do(0, n.signed(nonce, body))
	}
	n.nodes[3].stop()
	jailed := n.until(0, n.id(3), "jailed", func(v api.Validator) bool { return v.Jailed })
	if jailed.Power != 0 || jailed.Slashed != 10_000_000 || jailed.Tombstoned {
		t.Errorf("%+v", jailed)
	}
	n.start(3).reach(t, jailed.At.Height)
	if r := do(&ledger.Unjail{ID: n.id(3)}); !r.OK {
		t.Fatal(r.Message)
	}
	n.until(3, n.id(3), "elected again", func(v api.Validator) bool { return v.Power == 99 })

	// The fifth is a full node first.
	dir := shortDir(t)
	join := Join{Listen: freeLoopback(t), Peers: n.joins[0].Peers}
	if err := Setup(dir, n.genesis, join, rand.Reader); err != nil {
		t.Fatal(err)
	}
	n.homes, n.joins, n.nodes = append(n.homes, dir), append(n.joins, join), append(n.nodes, nil)
	n.start(4)
	body, err := SignValidator(dir, n.rich.Public(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	body.Amount = 150 * top.One
	if r := do(&body); !r.OK {
		t.Fatal(r.Message)
	}
	fifth := n.id(4)
	n.until(0, fifth, "the fifth is elected", func(v api.Validator) bool { return v.Power == 150 })
	n.until(0, n.id(3), "the poorest is out", func(v api.Validator) bool { return v.Power == 0 })
	eventually(t, "it votes", func() bool {
		s, err := n.nodes[4].api.Status(t.Context())
		return err == nil && s.Role == "validator" && s.Validators == 4
	})
	// Its votes count: with another one down the chain goes on.
	n.nodes[2].stop()
	if r := do(&ledger.Delegate{To: n.id(4), Amount: top.One}); !r.OK {
		t.Fatal(r.Message)
	}
	for i := range 3 {
		if v, err := n.nodes[0].api.Validator(t.Context(), n.id(i)); err != nil || i < 2 && v.Slashed != 0 {
			t.Errorf("honest validator %d: %+v %v", i, v, err)
		}
	}
	// Who verified the genesis alone verifies the newest header, over all the changes.
	g, err := ParseGenesis(n.genesis)
	if err != nil {
		t.Fatal(err)
	}
	asleep := &headers{chain: n.chain.String(), genesis: g, now: time.Now, byH: map[int64]*types.LightBlock{}}
	from := &peer{api: n.nodes[0].api}
	if err := asleep.begin(t.Context(), from, ""); err != nil {
		t.Fatal(err)
	}
	lb, err := asleep.verified(t.Context(), from, 0, 0)
	if err != nil || lb.ValidatorSet.Size() != 4 || !lb.ValidatorSet.HasAddress(cometed.PubKey(fifth[:]).Address()) {
		t.Errorf("verified from the genesis: %v", err)
	}
	n.nodes[0].stop()
	r, err := Verify(t.Context(), n.homes[0], true, func(_, _ top.Height) {})
	if err != nil || r.From != 1 {
		t.Errorf("replayed: %+v, %v", r, err)
	}
}

// Two machines vote with one key, and propose different blocks when it is their turn.
// The evidence takes coins of its owner and of its delegator, and the validator out
// for ever; nobody else loses any, and no honest root differs.
func TestByzantineDoubleSigner(t *testing.T) {
	n := newStaked(t, 4, func(p *ledger.Params) {})
	twin := shortDir(t)
	// The peers of node 3 are the honest three.
	join := Join{Listen: freeLoopback(t), Peers: n.joins[3].Peers}
	if err := Setup(twin, n.genesis, join, rand.Reader); err != nil {
		t.Fatal(err)
	}
	seed, err := Seed(n.homes[3], rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	guilty := n.id(3)
	n.homes, n.joins, n.nodes = append(n.homes, twin), append(n.joins, join), append(n.nodes, nil)
	n.edit = func(i int, c *Config) {
		if i == 4 {
			c.voteAs = &seed
			c.propose = func([][]byte) [][]byte { return nil }
		}
	}
	for i := range 4 {
		n.start(i)
	}
	n.nodes[0].reach(t, 1)
	if r := n.do(0, n.signed(1, &ledger.Delegate{To: guilty, Amount: 20 * top.One})); !r.OK {
		t.Fatal(r.Message)
	}
	n.start(4)
	// Payments make every proposal of the honest twin another than the liar's.
	nonce := uint64(1)
	var v api.Validator
	for end := time.Now().Add(60 * time.Second); !v.Tombstoned; {
		nonce++
		if r := n.pay(int(nonce%3), nonce, someone(1), top.One); !r.OK {
			t.Fatal(r.Message)
		}
		if v, err = n.nodes[0].api.Validator(t.Context(), guilty); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("never: evidence in a block")
		}
	}
	if v.Slashed != 6*top.One || v.Staked != 114*top.One || v.Power != 0 {
		t.Errorf("%+v", v)
	}
	for i := range 3 {
		v, err := n.nodes[i].api.Validator(t.Context(), n.id(i))
		if err != nil || v.Slashed != 0 || v.Staked != 100*top.One || v.Power != 100 {
			t.Errorf("honest validator %d: %+v %v", i, v, err)
		}
	}
	nonce++
	s, err := n.nodes[0].api.Submit(t.Context(), n.signed(nonce, &ledger.Unjail{ID: guilty}))
	if err == nil {
		tx, err := n.nodes[0].api.Tx(t.Context(), s.ID, 20*time.Second)
		if err != nil || tx.OK || tx.Error != string(top.Denied) {
			t.Errorf("out of jail: %+v %v", tx, err)
		}
	} else if !errors.Is(err, top.ErrDenied) {
		t.Error(err)
	}
	if r := n.pay(0, nonce+1, someone(2), top.One); !r.OK {
		t.Error(r.Message)
	}
}

func TestAGenesisWhoseHalvesDiffer(t *testing.T) {
	n := newStaked(t, 2, func(*ledger.Params) {})
	g, err := ParseGenesis(n.genesis)
	if err != nil {
		t.Fatal(err)
	}
	g.Doc.Validators[0].Power++
	refused(t, sameSet(g.Ledger, g.Doc.Validators), top.ErrInvalid, "contradicts itself")
	g.Doc.Validators[0].Power--
	refused(t, sameSet(g.Ledger, g.Doc.Validators[1:]), top.ErrInvalid, "are not in it")
	if _, err := SignValidator(home.Dir(t.TempDir()), n.rich.Public(), rand.Reader); !errors.Is(err, top.ErrNotFound) {
		t.Errorf("a home without a chain: %v", err)
	}
}
