package chain

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cometbft/cometbft/p2p"
	blocks "github.com/cometbft/cometbft/proto/tendermint/blocksync"
)

// heard is a reactor that notes what it is told.
type heard struct {
	p2p.Reactor
	all []string
}

func (h *heard) RemovePeer(p p2p.Peer, _ any) { h.all = append(h.all, "gone "+string(p.ID())) }

func (h *heard) Receive(e p2p.Envelope) {
	h.all = append(h.all, fmt.Sprintf("%T %s", e.Message, e.Src.ID()))
}

// named is a peer of which only the name matters.
type named struct {
	p2p.Peer
	id p2p.ID
}

func (n named) ID() p2p.ID { return n.id }

func TestWhatPeersTakeBackWaitsForABlock(t *testing.T) {
	status := func(id p2p.ID) p2p.Envelope {
		return p2p.Envelope{Src: named{id: id}, Message: &blocks.StatusResponse{Height: 9}}
	}
	none := p2p.Envelope{Src: named{id: "a"}, Message: &blocks.NoBlockResponse{Height: 5}}
	block := p2p.Envelope{Src: named{id: "a"}, Message: &blocks.BlockResponse{}}
	for name, c := range map[string]struct {
		say  func(*calmSync)
		now  []string // at once
		then []string // between two blocks
	}{
		"a peer leaves":                     {func(c *calmSync) { c.RemovePeer(named{id: "a"}, nil) }, nil, []string{"gone a"}},
		"a block that a peer has no more":   {func(c *calmSync) { c.Receive(none) }, nil, []string{"*blocksync.NoBlockResponse a"}},
		"a peer's first range, and a block": {func(c *calmSync) { c.Receive(status("a")); c.Receive(block) }, []string{"*blocksync.StatusResponse a", "*blocksync.BlockResponse a"}, nil},
		"a peer's next range":               {func(c *calmSync) { c.Receive(status("a")); c.Receive(status("a")) }, []string{"*blocksync.StatusResponse a"}, []string{"*blocksync.StatusResponse a"}},
		"who comes back before it was gone": {
			func(c *calmSync) {
				c.Receive(status("a"))
				c.RemovePeer(named{id: "a"}, nil)
				c.Receive(status("a"))
			},
			[]string{"*blocksync.StatusResponse a"}, []string{"gone a", "*blocksync.StatusResponse a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner, began := &heard{}, time.Now()
				calm := newCalm(inner, func() bool { return true })
				c.say(calm)
				if !slices.Equal(inner.all, c.now) {
					t.Fatalf("at once %q, want %q", inner.all, c.now)
				}
				calm.block()
				if want := append(slices.Clone(c.now), c.then...); !slices.Equal(inner.all, want) {
					t.Fatalf("after a block %q, want %q", inner.all, want)
				}
				if paused := time.Since(began); paused != 0 != (c.then != nil) {
					t.Fatalf("the block waited %v", paused)
				}
				said := len(inner.all)
				<-time.After(2 * calmIdle) // of the bubble's clock
				if len(inner.all) != said {
					t.Fatalf("said again: %q", inner.all[said:])
				}
			})
		})
	}
}

func TestWhatPeersTakeBackDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &heard{}
		calm := newCalm(inner, func() bool { return true })
		calm.RemovePeer(named{id: "a"}, nil)
		<-time.After(calmIdle / 2) // of the bubble's clock, as below
		calm.RemovePeer(named{id: "b"}, nil)
		if len(inner.all) > 0 {
			t.Fatal("a peer left while a block may be under way")
		}
		<-time.After(calmIdle)
		synctest.Wait()
		if !slices.Equal(inner.all, []string{"gone a", "gone b"}) {
			t.Fatalf("without a block: %q", inner.all)
		}
	})
}

// A peer that sends without end is not kept without end; that a peer left always is.
func TestWhatPeersTakeBackIsBounded(t *testing.T) {
	inner := &heard{}
	calm := newCalm(inner, func() bool { return true })
	for range 3 * calmKept {
		calm.Receive(p2p.Envelope{Src: named{id: "a"}, Message: &blocks.NoBlockResponse{Height: 5}})
	}
	calm.RemovePeer(named{id: "a"}, nil)
	if calm.between(); len(inner.all) != calmKept+1 || inner.all[calmKept] != "gone a" {
		t.Fatalf("%d kept", len(inner.all))
	}
}

// In consensus the pool rests: nothing waits.
func TestInConsensusPeersLeaveAtOnce(t *testing.T) {
	inner := &heard{}
	calm := newCalm(inner, func() bool { return false })
	calm.RemovePeer(named{id: "a"}, nil)
	if len(inner.all) != 1 {
		t.Fatal("it waits")
	}
}

// A peer that connects while the node stops would be kept by CometBFT, read by nobody.
func TestAStoppingNodeTakesNoPeer(t *testing.T) {
	a := &app{}
	if r, err := a.Query(t.Context(), nil); err != nil || !r.IsOK() {
		t.Fatal(r, err)
	}
	a.leaving.Store(true)
	if r, err := a.Query(t.Context(), nil); err != nil || r.IsOK() {
		t.Fatal(r, err)
	}
	if c := (&Node{cfg: Config{}}).cometConfig(); !c.FilterPeers {
		t.Fatal("it is not asked")
	}
}
