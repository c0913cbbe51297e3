package chain

import (
	"sync"
	"time"

	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	blocks "github.com/cometbft/cometbft/proto/tendermint/blocksync"
)

// calmSync is CometBFT's block sync while a node catches up, with what peers take back
// kept until a block was taken. Its pool (v0.40.0, blocksync/pool.go) gives the block at
// its height to be checked, and panics in PopRequest when that block is gone from it
// afterwards: since the peer that sent it left, says now that it has no such block, or
// tells less of itself than before. One peer could end a process so, at will, and a
// node that stopped in the middle ended with a panic.
//
// FinalizeBlock is called by the goroutine that checks, between two blocks: then nothing
// of the pool is in use.
type calmSync struct {
	p2p.Reactor
	catching func() bool // the node is not in consensus yet

	mu    sync.Mutex
	known map[p2p.ID]bool // peers that told a range of blocks
	later []func()
	idle  *time.Timer // runs while something is kept
}

const (
	calmKept  = 1024                  // messages; more are dropped: the pool asks again by itself
	calmIdle  = time.Second           // without a block nothing is being checked
	calmPause = 10 * time.Millisecond // the pool's goroutines, one a block, follow in it
)

// calmly puts a calmSync in the place of a node's block sync, before it starts.
func (a *app) calmly(n *node.Node) {
	inner, ok := n.Switch().Reactor(blockSync)
	if !ok {
		return
	}
	c := newCalm(inner, n.ConsensusReactor().WaitSync)
	node.CustomReactors(map[string]p2p.Reactor{blockSync: c})(n)
	a.between = c.block
}

const blockSync = "BLOCKSYNC" // its name in CometBFT's switch

func newCalm(inner p2p.Reactor, catching func() bool) *calmSync {
	return &calmSync{Reactor: inner, catching: catching, known: map[p2p.ID]bool{}}
}

// RemovePeer implements p2p.Reactor.
func (c *calmSync) RemovePeer(peer p2p.Peer, reason any) {
	c.keep(func() {
		c.mu.Lock()
		delete(c.known, peer.ID()) // not before: who comes back at once is not new
		c.mu.Unlock()
		c.Reactor.RemovePeer(peer, reason)
	}, true)
}

// Receive implements p2p.Reactor.
func (c *calmSync) Receive(e p2p.Envelope) {
	switch e.Message.(type) {
	case *blocks.StatusResponse:
		c.mu.Lock()
		known := c.known[e.Src.ID()]
		c.known[e.Src.ID()] = true
		c.mu.Unlock()
		if !known {
			break
		}
		c.keep(func() { c.Reactor.Receive(e) }, false)
		return
	case *blocks.NoBlockResponse:
		c.keep(func() { c.Reactor.Receive(e) }, false)
		return
	}
	c.Reactor.Receive(e)
}

// keep calls f between two blocks; must is of what may not be dropped.
func (c *calmSync) keep(f func(), must bool) {
	c.mu.Lock()
	if !c.catching() {
		c.mu.Unlock()
		f()
		return
	}
	defer c.mu.Unlock()
	if len(c.later) >= calmKept && !must {
		return
	}
	c.later = append(c.later, f)
	if c.idle == nil {
		c.idle = time.AfterFunc(calmIdle, func() { c.between() })
	}
}

// between carries out what was kept, and says whether that was anything. Only who
// checks blocks calls it, or the clock when nobody does.
func (c *calmSync) between() bool {
	c.mu.Lock()
	all := c.later
	c.later = nil
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
	c.mu.Unlock()
	for _, f := range all {
		f()
	}
	return len(all) > 0
}

// block is told of each block before it is carried out.
func (c *calmSync) block() {
	if c.between() && c.catching() {
		time.Sleep(calmPause)
	}
}
