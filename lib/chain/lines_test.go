package chain

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"top/lib/ledger"
	"top/lib/testnet"
	"top/lib/top"
)

// apart puts lines of a shape between all nodes, and gives the net of them.
func (n *network) apart(shape func(i, j int) testnet.Shape) *testnet.Net {
	n.t.Helper()
	lines := testnet.New()
	n.t.Cleanup(lines.Close)
	for i := range n.homes {
		for j := range n.homes {
			if i == j {
				continue
			}
			addr, err := lines.Line(name(i), name(j), n.joins[j].Listen, shape(i, j))
			if err != nil {
				n.t.Fatal(err)
			}
			id, err := PeerID(n.homes[j], rand.Reader)
			if err != nil {
				n.t.Fatal(err)
			}
			at := slices.IndexFunc(n.joins[i].Peers, func(p string) bool { return p[:len(id)] == id })
			n.joins[i].Peers[at] = id + "@" + addr
		}
	}
	return lines
}

func name(i int) string { return fmt.Sprint("val", i) }

// agreed waits until all nodes are at one height with one root.
func (n *network) agreed() {
	n.t.Helper()
	eventually(n.t, "all are at one height with one root", func() bool {
		at := n.nodes[0].app.lastHead()
		for _, r := range n.nodes[1:] {
			if h := r.app.lastHead(); h.Height != at.Height || h.Root != at.Root {
				return false
			}
		}
		return true
	})
}

// heights is where every node stands.
func (n *network) heights() (hs []top.Height) {
	for _, r := range n.nodes {
		hs = append(hs, r.app.lastHead().Height)
	}
	return hs
}

// Four validators in Frankfurt, Virginia, Tokyo and São Paulo, each a sea away from the
// others, over lines that lose one segment in a hundred: payments are final within
// seconds, and nobody's root differs. Times one way, ms, as large clouds publish them.
func TestFaultAWorldBetween(t *testing.T) {
	oneWay := [4][4]time.Duration{{0, 45, 112, 102}, {45, 0, 75, 58}, {112, 75, 0, 130}, {102, 58, 130, 0}}
	n := newNetwork(t, 4)
	n.apart(func(i, j int) testnet.Shape {
		return testnet.Shape{Delay: oneWay[i][j] * time.Millisecond, Loss: 0.01}
	})
	n.startAll()
	n.nodes[0].reach(t, 1)
	var took []time.Duration
	for nonce := uint64(1); nonce <= 12; nonce++ {
		began := time.Now()
		if r := n.pay(int(nonce%4), nonce, someone(1), top.One); !r.OK {
			t.Fatal(r.Message)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("final after %s in the middle, %s at most", took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > 10*time.Second {
		t.Error("too slow to be of use")
	}
	n.agreed()
}

// Two validators on each side of a partition agree on nothing; three and one: the
// three go on, the one does not, and has all of it once the lines are back.
func TestFaultAPartition(t *testing.T) {
	n := newNetwork(t, 4)
	lines := n.apart(func(int, int) testnet.Shape { return testnet.Shape{} })
	n.startAll()
	n.nodes[0].reach(t, 1)
	if r := n.pay(0, 1, someone(1), top.One); !r.OK {
		t.Fatal(r.Message)
	}
	lines.Cut([]string{"val0", "val1"}, []string{"val2", "val3"})
	// A block that both sides had votes for may still become final.
	<-time.After(time.Second)
	before := n.heights()
	raw := n.transfer(2, someone(1), top.One)
	s, err := n.nodes[0].api.Submit(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.nodes[0].api.Tx(t.Context(), s.ID, 3*time.Second); !errors.Is(err, top.ErrNotFound) {
		t.Fatalf("final with half of the votes: %v", err)
	}
	for i, h := range n.heights() {
		if h > before[i]+1 {
			t.Errorf("node %d went from block %s to %s on half of the votes", i, before[i], h)
		}
	}
	lines.Heal()
	if tx, err := n.nodes[2].api.Tx(t.Context(), s.ID, 25*time.Second); err != nil || !tx.OK {
		t.Fatalf("after the partition: %+v %v", tx, err)
	}
	lines.Cut([]string{"val0", "val1", "val2"}, []string{"val3"})
	for nonce := uint64(3); nonce < 6; nonce++ {
		if r := n.pay(int(nonce%3), nonce, someone(1), top.One); !r.OK {
			t.Fatal(r.Message)
		}
	}
	if alone, all := n.nodes[3].app.lastHead().Height, n.nodes[0].app.lastHead().Height; alone+2 > all {
		t.Errorf("the one that is alone is at block %s, the others at %s", alone, all)
	}
	lines.Heal()
	n.agreed()
}

// skewed votes by a clock that is wrong.
type skewed struct {
	types.PrivValidator
	by time.Duration
}

// SignVote is for types.PrivValidator.
func (s skewed) SignVote(chain string, v *cmtproto.Vote) error {
	v.Timestamp = v.Timestamp.Add(s.by)
	return s.PrivValidator.SignVote(chain, v)
}

// A validator whose clock is a day ahead, and one whose clock is a day behind, move the
// chain's time by nothing: it is the median by power (CometBFT, "BFT time"), so a third
// of the power cannot make an expiry or an unlock come early.
func TestByzantineClock(t *testing.T) {
	for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		n := newNetwork(t, 4)
		n.edit = func(i int, c *Config) {
			if i == 2 {
				c.sign = func(p types.PrivValidator) types.PrivValidator { return skewed{p, by} }
			}
		}
		n.startAll()
		n.nodes[0].reach(t, 1)
		for nonce := uint64(1); nonce <= 8; nonce++ {
			tx := n.pay(int(nonce%4), nonce, someone(1), top.One)
			if off := time.Since(tx.Time.Time); !tx.OK || off < -5*time.Second || off > 25*time.Second {
				t.Fatalf("the chain's time is %s off: %s", off, tx.Message)
			}
		}
		n.agreed()
		for _, r := range n.nodes {
			r.stop()
		}
	}
}

// Two strangers send one validator what is signed wrongly, and one sends what is signed
// rightly and fails: the others' payments are final as before, through that validator
// too.
func TestFaultFloods(t *testing.T) {
	n := newNetwork(t, 4)
	n.startAll()
	n.nodes[0].reach(t, 1)
	forged := n.transfer(60, someone(2), top.One)
	forged[len(forged)-1] ^= 1
	stop := make(chan struct{})
	ended := make(chan [2]int, 3)
	// flood sends until it is told to stop, on a new stream whenever one ends.
	flood := func(raw func(i int) []byte) {
		sent, refused := 0, 0
		for {
			select {
			case <-stop:
				ended <- [2]int{sent, refused}
				return
			default:
			}
			s, err := n.nodes[1].api.TxStream(t.Context())
			if err != nil {
				continue
			}
			heard := make(chan struct{})
			go func() {
				defer close(heard)
				for {
					all, err := s.Next()
					if err != nil {
						return
					}
					for _, v := range all {
						if v.Err != nil {
							refused++
						}
					}
				}
			}()
			for open := true; open; {
				select {
				case <-stop:
					open = false
				case <-heard:
					open = false
				default:
					err := s.Send(raw(sent))
					if sent++; sent%100 == 0 && err == nil {
						err = s.Flush()
					}
					open = err == nil
				}
			}
			s.Close()
			<-heard
		}
	}
	go flood(func(int) []byte { return forged })
	go flood(func(i int) []byte { // each another
		b := slices.Clone(forged)
		b[len(b)-2] ^= byte(i)
		b[len(b)-3] ^= byte(i >> 8)
		return b
	})
	poor := n.signed(61, &ledger.Transfer{To: ledger.To(0), Amount: 9_000_000 * top.One})
	go flood(func(int) []byte { return poor })
	var worst time.Duration
	for nonce := uint64(1); nonce <= 20; nonce++ {
		began := time.Now()
		at, raw := int(nonce%4), n.transfer(nonce, someone(1), top.One)
		told, err := n.nodes[at].api.Submit(t.Context(), raw)
		for errors.Is(err, top.ErrBusy) && time.Since(began) < 15*time.Second { // strangers fill his room there (docs/threats.md): he tries again
			<-time.After(100 * time.Millisecond)
			told, err = n.nodes[at].api.Submit(t.Context(), raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		if r := n.final(at, told.ID); !r.OK {
			t.Fatal(r.Message)
		}
		worst = max(worst, time.Since(began))
	}
	close(stop)
	sent, refused := 0, 0
	for range 3 {
		e := <-ended
		sent, refused = sent+e[0], refused+e[1]
	}
	t.Logf("%d sent, %d refused, a payment was final after %s at most", sent, refused, worst)
	if sent < 1000 || refused < 500 || worst > 15*time.Second {
		t.Errorf("%d sent, %d refused, the slowest payment took %s", sent, refused, worst)
	}
	n.agreed()
	a, err := n.nodes[0].api.Account(t.Context(), someone(2))
	if err != nil || a.Exists {
		t.Errorf("a forged payment was carried out: %+v %v", a, err)
	}
}
