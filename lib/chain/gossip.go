package chain

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/p2p/conn"
	protomem "github.com/cometbft/cometbft/proto/tendermint/mempool"

	"top/lib/ledger"
	"top/lib/pool"
	"top/lib/top"
	"top/lib/wire"
)

// gossip spreads bundles among nodes, in the place of CometBFT's mempool reactor,
// which sends everything to everybody. Who makes a bundle sends it to all its peers;
// whoever got and checked it tells the others that it has it, and sends it to who
// asks. A new peer is told of all that waits. docs/wire.md, "Bundles between nodes".
type gossip struct {
	p2p.BaseReactor
	pool *pool.Pool
	log  *slog.Logger

	mu      sync.Mutex
	peers   map[p2p.ID]*gossipPeer
	missing map[top.ID]*missing
}

type gossipPeer struct {
	p2p.Peer
	out  chan gossipItem
	done chan struct{}
	has  seenSet
}

// A gossipItem is a bundle to send, or word that it is here.
type gossipItem struct {
	kind byte
	id   top.ID
}

// missing is a bundle that peers have and this node has not.
type missing struct {
	at    time.Time // when to ask for it
	peers []p2p.ID  // whom to ask, in turn
}

// The messages.
const (
	gossipBundle byte = 1 + iota
	gossipHave
	gossipWant
)

const (
	gossipChannel  = 0x30 // CometBFT's, for its mempool
	gossipQueue    = 1024
	maxGossipIDs   = 256
	maxMissing     = 4096
	askAfter       = 100 * time.Millisecond
	lateAfter      = 2 * time.Second
	gossipPatience = 8 // times that a missing bundle is asked for
)

func newGossip(p *pool.Pool, log *slog.Logger) *gossip {
	g := &gossip{pool: p, log: log, peers: map[p2p.ID]*gossipPeer{}, missing: map[top.ID]*missing{}}
	g.BaseReactor = *p2p.NewBaseReactor("Bundles", g)
	return g
}

// OnStart is for CometBFT.
func (g *gossip) OnStart() error {
	go g.ask()
	return nil
}

// GetChannels is for CometBFT.
func (g *gossip) GetChannels() []*conn.ChannelDescriptor {
	return []*conn.ChannelDescriptor{{
		ID: gossipChannel, Priority: 5, RecvMessageCapacity: ledger.MaxBundle + 1024, MessageType: &protomem.Message{},
	}}
}

// AddPeer is for CometBFT: it tells the peer what waits here.
func (g *gossip) AddPeer(p p2p.Peer) {
	peer := &gossipPeer{Peer: p, out: make(chan gossipItem, gossipQueue), done: make(chan struct{})}
	g.mu.Lock()
	g.peers[p.ID()] = peer
	g.mu.Unlock()
	go g.serve(peer)
	for _, id := range g.pool.Bundles() {
		peer.put(gossipItem{gossipHave, id})
	}
}

// RemovePeer is for CometBFT.
func (g *gossip) RemovePeer(p p2p.Peer, _ any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if peer := g.peers[p.ID()]; peer != nil && peer.Peer == p {
		close(peer.done)
		delete(g.peers, p.ID())
	}
}

// put queues; what finds no room is found in a proposal.
func (p *gossipPeer) put(it gossipItem) {
	select {
	case p.out <- it:
	default:
	}
}

// serve sends a peer what is queued for it, in order, words of what is here together.
func (g *gossip) serve(p *gossipPeer) {
	var then *gossipItem // taken from the queue already
	for {
		var it gossipItem
		if then != nil {
			it, then = *then, nil
		} else {
			select {
			case it = <-p.out:
			case <-p.done:
				return
			case <-g.Quit():
				return
			}
		}
		if it.kind == gossipBundle {
			raw := g.pool.Bundle(it.id)
			if raw != nil && p.has.add(it.id) {
				g.send(p, append([]byte{gossipBundle}, raw...))
			}
			continue
		}
		ids := map[byte][]top.ID{it.kind: {it.id}}
		for more := true; more && then == nil && len(ids[it.kind]) < maxGossipIDs; {
			select {
			case next := <-p.out:
				if next.kind != it.kind {
					then = &next
				} else {
					ids[it.kind] = append(ids[it.kind], next.id)
				}
			default:
				more = false
			}
		}
		g.send(p, encodeIDs(it.kind, ids[it.kind]))
	}
}

func (g *gossip) send(p *gossipPeer, b []byte) {
	if !p.Send(p2p.Envelope{ChannelID: gossipChannel, Message: &protomem.Txs{Txs: [][]byte{b}}}) {
		g.log.Debug("bundle not sent", "peer", p.ID())
	}
}

func encodeIDs(kind byte, ids []top.ID) []byte {
	var e wire.Encoder
	e.Byte(kind)
	e.Uint(uint64(len(ids)))
	for _, id := range ids {
		e.Raw(id[:])
	}
	return e.Out()
}

func decodeIDs(b []byte) ([]top.ID, error) {
	d := wire.Decode(b, len(b))
	ids := make([]top.ID, d.Count(maxGossipIDs, 32))
	for i := range ids {
		ids[i] = d.ID()
	}
	return ids, d.End()
}

// Receive is for CometBFT. It must not be long: votes come the same way.
func (g *gossip) Receive(e p2p.Envelope) {
	if err := g.receive(e); err != nil {
		g.Switch.StopPeerForError(e.Src, fmt.Errorf("bundles: %w", err))
	}
}

func (g *gossip) receive(e p2p.Envelope) error {
	m, ok := e.Message.(*protomem.Txs)
	if !ok || len(m.Txs) != 1 || len(m.Txs[0]) == 0 {
		return fmt.Errorf("a message of another form: %w", top.ErrInvalid)
	}
	g.mu.Lock()
	p := g.peers[e.Src.ID()]
	g.mu.Unlock()
	if p == nil {
		return nil // it is not added yet, or gone
	}
	switch b := m.Txs[0]; b[0] {
	case gossipBundle:
		return g.bundle(p, b[1:])
	case gossipHave, gossipWant:
		ids, err := decodeIDs(b[1:])
		if err != nil {
			return err
		}
		for _, id := range ids {
			if b[0] == gossipWant {
				p.has.remove(id)
				p.put(gossipItem{gossipBundle, id})
			} else {
				g.has(p, id)
			}
		}
		return nil
	default:
		return fmt.Errorf("message %d: %w", b[0], top.ErrInvalid)
	}
}

// bundle takes a bundle to be checked. One that any node finds wrong ends the
// connection: nobody passes on what he did not check.
func (g *gossip) bundle(p *gossipPeer, raw []byte) error {
	id := ledger.BundleID(raw)
	p.has.add(id)
	g.mu.Lock()
	delete(g.missing, id)
	g.mu.Unlock()
	g.pool.Offer(id, raw, func(err error) {
		if err != nil {
			g.Switch.StopPeerForError(p.Peer, fmt.Errorf("bundles: %w", err))
		}
	})
	return nil
}

// has notes that a peer has a bundle, to be asked for when it does not come.
func (g *gossip) has(p *gossipPeer, id top.ID) {
	p.has.add(id)
	if g.pool.Knows(id) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.missing[id]
	if m == nil {
		if len(g.missing) >= maxMissing {
			return
		}
		m = &missing{at: time.Now().Add(askAfter)}
		g.missing[id] = m
	}
	if len(m.peers) < gossipPatience {
		m.peers = append(m.peers, p.ID())
	}
}

// ask asks for what did not come by itself, and says again what was made here and is
// not final: a peer without room drops what it is sent, and a node that is no validator
// depends on others to propose it.
func (g *gossip) ask() {
	tick := time.NewTicker(askAfter / 2)
	defer tick.Stop()
	said := time.Now()
	for {
		select {
		case <-g.Quit():
			return
		case now := <-tick.C:
			g.mu.Lock()
			for id, m := range g.missing {
				switch {
				case len(m.peers) == 0 || g.pool.Knows(id):
					delete(g.missing, id)
				case now.After(m.at):
					if p := g.peers[m.peers[0]]; p != nil {
						p.put(gossipItem{gossipWant, id})
					}
					m.peers, m.at = m.peers[1:], now.Add(5*askAfter)
				}
			}
			if now.Sub(said) > lateAfter {
				said = now
				for _, id := range g.pool.Late(lateAfter) {
					for _, p := range g.peers {
						p.put(gossipItem{gossipHave, id})
					}
				}
			}
			g.mu.Unlock()
		}
	}
}

// spread sends a bundle that was made here, or says that one of a peer is here too.
func (g *gossip) spread(id top.ID, own bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.peers {
		switch {
		case own:
			p.put(gossipItem{gossipBundle, id})
		case !p.has.has(id):
			p.put(gossipItem{gossipHave, id})
		}
	}
}

// seenSet remembers the last bundles that a peer has. It forgets the older half when
// it is full.
type seenSet struct {
	mu       sync.Mutex
	new, old map[top.ID]struct{}
}

const maxSeen = 1 << 12

func (s *seenSet) has(id top.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, n := s.new[id]
	_, o := s.old[id]
	return n || o
}

// add says whether it is new.
func (s *seenSet) add(id top.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, n := s.new[id]
	_, o := s.old[id]
	if s.new == nil || len(s.new) >= maxSeen {
		s.old, s.new = s.new, make(map[top.ID]struct{})
	}
	s.new[id] = struct{}{}
	return !n && !o
}

func (s *seenSet) remove(id top.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.new, id)
	delete(s.old, id)
}
