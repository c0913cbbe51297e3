package ledger

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"top/lib/stake"
	"top/lib/top"
	"top/lib/wire"
)

const (
	snapshotMagic = "top/snapshot/1"
	maxAccounts   = math.MaxInt32
)

// Encode is the whole state (docs/wire.md, "Snapshot"): what Load makes the same
// state of, with the root at its end.
func (s *State) Encode() []byte {
	e := wire.To(make([]byte, 0, 256+len(s.hot)*(hotSize+coldSize)+len(s.channel)*128+len(s.node)*512))
	e.Raw([]byte(snapshotMagic))
	e.Bytes(s.meta().encode())
	e.Uint64(uint64(s.height))
	e.Uint64(s.now)
	var row [hotSize + coldSize]byte
	for i := range s.hot {
		s.hot[i].put(row[:])
		s.cold[i].put(row[hotSize:])
		e.Raw(row[:])
	}
	e.Uint(uint64(len(s.channel)))
	s.channels.each(func(key [32]byte) {
		e.Raw(key[:])
		e.Bytes(s.channel[key].encode())
	})
	e.Uint(uint64(len(s.node)))
	for _, id := range s.nodeList {
		e.Bytes(s.node[id].encode())
	}
	e.Uint(uint64(len(s.stakes.rows)))
	s.stakes.trie.each(func(key [32]byte) {
		e.Raw(key[:])
		e.Bytes(s.stakes.rows[key])
	})
	root := s.Root()
	e.Raw(root[:])
	return e.Out()
}

// each calls fn with every key, in order.
func (t *trie) each(fn func(key [32]byte)) {
	if t.some {
		t.walk(t.top, fn)
	}
}

func (t *trie) walk(r ref, fn func([32]byte)) {
	if r < 0 {
		fn(t.leaves[^r].key)
		return
	}
	t.walk(t.inner[r].child[0], fn)
	t.walk(t.inner[r].child[1], fn)
}

// Load reads a state and refuses one whose root is not the one that it says, or
// whose money does not add up.
func Load(b []byte) (*State, error) {
	d := wire.Decode(b, math.MaxInt)
	if string(d.Raw(len(snapshotMagic))) != snapshotMagic {
		d.Fail("not a snapshot")
	}
	var m Meta
	md := wire.Decode(d.Bytes(1<<12), 1<<12)
	m.get(md)
	if err := md.End(); err != nil {
		d.Fail("%v", err)
	}
	s := empty(m.Params)
	s.supply = m.Supply
	s.openBook()
	s.height, s.now = top.Height(d.Uint64()), d.Uint64()
	s.loadAccounts(d, int(m.Accounts))
	s.loadChannels(d)
	s.loadNodes(d)
	s.loadStakes(d)
	if m.Burned < s.stake.Burned() || m.Minted != s.stake.Minted() {
		d.Fail("burned or minted: the stakes say otherwise")
	}
	s.burned = m.Burned - s.stake.Burned()
	root := d.ID()
	if err := d.End(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if s.Root() != root {
		return nil, fmt.Errorf("snapshot: its root is %s, it says %s: %w", s.Root().Short(), root.Short(), top.ErrInvalid)
	}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("snapshot: %v: %w", err, top.ErrInvalid)
	}
	return s, nil
}

func (s *State) loadAccounts(d *wire.Decoder, n int) {
	if n > maxAccounts || n*(hotSize+coldSize) > d.Len() {
		d.Fail("%d accounts: short", n)
		return
	}
	s.hot, s.cold = make([]hot, n), make([]cold, n)
	s.byKey = make(map[top.Address]uint32, n)
	for i := range s.hot {
		s.hot[i].get(d.Raw(hotSize))
		c := &s.cold[i]
		c.get(d.Raw(coldSize))
		if _, twice := s.byKey[c.key]; twice {
			d.Fail("account %s twice", c.key)
			return
		}
		s.byKey[c.key] = uint32(i)
		s.touch(uint32(i))
		if c.unlocking > 0 {
			heap.Push(&s.unlocks, unlock{c.unlockAt, uint32(i)})
		}
	}
	s.indexAll()
}

// indexAll makes the index of all accounts at once.
func (s *State) indexAll() {
	type place struct {
		first uint64 // bytes of the key, in order
		at    uint32
	}
	order := make([]place, len(s.cold))
	for i := range order {
		order[i] = place{binary.BigEndian.Uint64(s.cold[i].key[:]), uint32(i)}
	}
	slices.SortFunc(order, func(a, b place) int {
		if a.first != b.first {
			return cmp.Compare(a.first, b.first)
		}
		return slices.Compare(s.cold[a.at].key[:], s.cold[b.at].key[:])
	})
	keys, hashes := make([][32]byte, len(order)), make([]top.ID, len(order))
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			keys[i] = s.cold[order[i].at].key
			hashes[i] = leafHash(indexDomain, keys[i], indexValue(order[i].at))
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { fill(0, len(order)/2) })
	fill(len(order)/2, len(order))
	wg.Wait()
	s.index.build(keys, hashes)
}

func (s *State) loadChannels(d *wire.Decoder) {
	for range d.Count(maxAccounts, 40) {
		c := new(Channel)
		c.ID = d.ID()
		cd := wire.Decode(d.Bytes(256), 256)
		c.get(cd)
		if err := cd.End(); err != nil {
			d.Fail("%v", err)
		}
		if _, twice := s.channel[c.ID]; twice || int(c.Payer) >= len(s.hot) || int(c.Provider) >= len(s.hot) {
			d.Fail("channel %s", c.ID.Short())
		}
		if d.Err() != nil {
			return
		}
		s.addChannel(c)
	}
}

func (s *State) loadNodes(d *wire.Decoder) {
	for range d.Count(maxAccounts, 100) {
		n := new(Node)
		nd := wire.Decode(d.Bytes(maxProof), maxProof)
		n.get(nd)
		if err := nd.End(); err != nil {
			d.Fail("%v", err)
		}
		if _, twice := s.node[n.ID]; twice || int(n.Owner) >= len(s.hot) || s.cold[n.Owner].node != n.ID {
			d.Fail("node %s", n.ID)
		}
		if d.Err() != nil {
			return
		}
		s.putNode(n)
	}
}

func (s *State) loadStakes(d *wire.Decoder) {
	for range d.Count(maxAccounts, 33) {
		key, row := d.ID(), d.Bytes(stake.MaxRow)
		if d.Err() != nil {
			return
		}
		if err := s.stake.Load(key, row); err != nil {
			d.Fail("%v", err)
			return
		}
		s.stakes.PutRow(key, slices.Clone(row))
	}
	if err := s.stake.Ready(len(s.hot)); err != nil {
		d.Fail("%v", err)
	}
}
