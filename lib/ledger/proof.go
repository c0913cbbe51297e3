package ledger

import (
	"fmt"

	"top/lib/top"
	"top/lib/wire"
)

// maxProof bounds an encoded proof of any kind.
const maxProof = 64 << 10

// roots are what the state root is made of.
type roots struct{ meta, hot, cold, index, channels, nodes, stakes top.ID }

func (r *roots) root() top.ID {
	var parts [][]byte
	for _, id := range r.all() {
		parts = append(parts, id[:])
	}
	return wire.Digest("top/state/1", parts...)
}

func (r *roots) all() []*top.ID {
	return []*top.ID{&r.meta, &r.hot, &r.cold, &r.index, &r.channels, &r.nodes, &r.stakes}
}

func (s *State) roots() roots {
	m := s.meta()
	return roots{
		m.hash(), s.hotPages.root(s.hotPage), s.coldPages.root(s.coldPage), s.index.root(), s.channels.root(), s.nodes.root(), s.stakes.trie.root(),
	}
}

var errProof = fmt.Errorf("the proof does not lead to the root: %w", top.ErrFailed)

// A proof of one kind carries the roots of the other trees, so that it leads to
// the state root.
func (r *roots) put(e *wire.Encoder) {
	for _, id := range r.all() {
		e.Raw(id[:])
	}
}

func (r *roots) get(d *wire.Decoder) {
	for _, id := range r.all() {
		*id = d.ID()
	}
}

// An AccountProof shows an account, or that an address has none.
type AccountProof struct {
	Address  top.Address
	roots    roots
	path     triePath
	index    uint32 // of the account found
	hotPage  []byte
	coldPage []byte
	hotPath  []top.ID
	coldPath []top.ID
}

// ProveAccount proves what the state says of an address.
func (s *State) ProveAccount(a top.Address) AccountProof {
	p := AccountProof{Address: a, roots: s.roots(), path: s.index.prove(a)}
	if !p.path.some {
		return p
	}
	p.index = s.byKey[p.path.found]
	if p.path.found != a {
		return p
	}
	page := int(p.index) / pageSize
	p.hotPage, p.coldPage = s.hotPage(page, nil), s.coldPage(page, nil)
	p.hotPath, p.coldPath = s.hotPages.path(page), s.coldPages.path(page)
	return p
}

// Verify checks the proof against a state root and gives the account, its index
// and whether the address has one.
func (p AccountProof) Verify(root top.ID) (a Account, index uint32, exists bool, err error) {
	leaf := leafHash(indexDomain, p.path.found, indexValue(p.index))
	got, ok := p.path.root(p.Address, leaf)
	if !ok || got != p.roots.index || p.roots.root() != root {
		return a, 0, false, errProof
	}
	if !p.path.some || p.path.found != p.Address {
		return a, 0, false, nil
	}
	page := p.index / pageSize
	hotRoot, ok1 := pageRoot(p.hotPage, page, p.hotPath)
	coldRoot, ok2 := pageRoot(p.coldPage, page, p.coldPath)
	if !ok1 || !ok2 || hotRoot != p.roots.hot || coldRoot != p.roots.cold {
		return a, 0, false, errProof
	}
	var h hot
	var c cold
	h.get(p.hotPage[p.index%pageSize*hotSize:])
	c.get(p.coldPage[p.index%pageSize*coldSize:])
	if c.key != p.Address {
		return a, 0, false, errProof
	}
	return join(h, c), p.index, true, nil
}

// Encode is the canonical form (docs/wire.md, "Proofs").
func (p AccountProof) Encode() []byte {
	var e wire.Encoder
	e.Raw(p.Address[:])
	p.roots.put(&e)
	p.path.put(&e)
	if !p.path.some {
		return e.Out()
	}
	e.Uint(uint64(p.index))
	if p.path.found == p.Address {
		e.Raw(p.hotPage)
		e.Raw(p.coldPage)
		e.Uint(uint64(len(p.hotPath)))
		for i := range p.hotPath {
			e.Raw(p.hotPath[i][:])
			e.Raw(p.coldPath[i][:])
		}
	}
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (p *AccountProof) Decode(b []byte) error {
	d := wire.Decode(b, maxProof)
	*p = AccountProof{}
	d.Fill(p.Address[:])
	p.roots.get(d)
	p.path.get(d)
	if p.path.some {
		p.index = d.Uint32()
	}
	if p.path.some && p.path.found == p.Address {
		p.hotPage, p.coldPage = d.Raw(pageSize*hotSize), d.Raw(pageSize*coldSize)
		for range d.Count(32, 64) {
			p.hotPath = append(p.hotPath, d.ID())
			p.coldPath = append(p.coldPath, d.ID())
		}
	}
	return d.End()
}

// A ChannelProof shows a channel, or that there is none by an id: it is closed,
// or never was.
type ChannelProof struct{ row rowProof }

// ProveChannel proves what the state says of a channel.
func (s *State) ProveChannel(id top.ID) ChannelProof {
	p := ChannelProof{rowProof{key: id, roots: s.roots(), path: s.channels.prove(id)}}
	if p.row.path.some {
		p.row.value = s.channel[p.row.path.found].encode()
	}
	return p
}

// Verify checks the proof against a state root.
func (p ChannelProof) Verify(root top.ID) (c Channel, exists bool, err error) {
	exists, err = p.row.verify(channelDomain, p.row.roots.channels, root)
	if err != nil || !exists {
		return c, false, err
	}
	c.ID = p.row.key
	d := wire.Decode(p.row.value, maxProof)
	c.get(d)
	return c, true, d.End()
}

// ID is the channel that the proof is about.
func (p ChannelProof) ID() top.ID { return p.row.key }

// Encode is the canonical form (docs/wire.md, "Proofs").
func (p ChannelProof) Encode() []byte { return p.row.encode() }

// Decode reads the canonical form and refuses every other.
func (p *ChannelProof) Decode(b []byte) error { return p.row.decode(b) }

// A NodeProof shows a row of the registry, or that there is none.
type NodeProof struct{ row rowProof }

// ProveNode proves what the registry says of a node.
func (s *State) ProveNode(id top.NodeID) NodeProof {
	p := NodeProof{rowProof{key: id, roots: s.roots(), path: s.nodes.prove(id)}}
	if p.row.path.some {
		p.row.value = s.node[p.row.path.found].encode()
	}
	return p
}

// Verify checks the proof against a state root.
func (p NodeProof) Verify(root top.ID) (n Node, exists bool, err error) {
	exists, err = p.row.verify(nodeDomain, p.row.roots.nodes, root)
	if err != nil || !exists {
		return n, false, err
	}
	d := wire.Decode(p.row.value, maxProof)
	n.get(d)
	if err := d.End(); err != nil {
		return Node{}, false, err
	}
	return n, true, nil
}

// ID is the node that the proof is about.
func (p NodeProof) ID() top.NodeID { return p.row.key }

// Encode is the canonical form (docs/wire.md, "Proofs").
func (p NodeProof) Encode() []byte { return p.row.encode() }

// Decode reads the canonical form and refuses every other.
func (p *NodeProof) Decode(b []byte) error { return p.row.decode(b) }

// A rowProof shows a leaf of a trie, or another leaf in its place.
type rowProof struct {
	key   [32]byte
	roots roots
	path  triePath
	value []byte // of the leaf found
}

func (p rowProof) verify(domain string, tree, root top.ID) (exists bool, err error) {
	got, ok := p.path.root(p.key, leafHash(domain, p.path.found, p.value))
	if !ok || got != tree || p.roots.root() != root {
		return false, errProof
	}
	return p.path.some && p.path.found == p.key, nil
}

func (p rowProof) encode() []byte {
	var e wire.Encoder
	e.Raw(p.key[:])
	p.roots.put(&e)
	p.path.put(&e)
	if p.path.some {
		e.Bytes(p.value)
	}
	return e.Out()
}

func (p *rowProof) decode(b []byte) error {
	d := wire.Decode(b, maxProof)
	*p = rowProof{}
	d.Fill(p.key[:])
	p.roots.get(d)
	p.path.get(d)
	if p.path.some {
		p.value = d.Bytes(maxProof)
	}
	return d.End()
}

// A MetaProof shows the parameters, the supply and what was burned of it.
type MetaProof struct {
	meta  Meta
	roots roots
}

// ProveMeta proves what the state says of the chain as a whole.
func (s *State) ProveMeta() MetaProof { return MetaProof{s.meta(), s.roots()} }

// Verify checks the proof against a state root.
func (p MetaProof) Verify(root top.ID) (Meta, error) {
	if p.meta.hash() != p.roots.meta || p.roots.root() != root {
		return Meta{}, errProof
	}
	return p.meta, nil
}

// Encode is the canonical form (docs/wire.md, "Proofs").
func (p MetaProof) Encode() []byte {
	e := wire.To(p.meta.encode())
	p.roots.put(e)
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (p *MetaProof) Decode(b []byte) error {
	d := wire.Decode(b, maxProof)
	p.meta.get(d)
	p.roots.get(d)
	return d.End()
}
