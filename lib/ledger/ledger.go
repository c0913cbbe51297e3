// Package ledger is the state machine of money: accounts, fees, locks, the
// registry of nodes, payment channels and, with lib/stake, the stake that elects
// validators, and the root that proves them. Given
// the same genesis and the same transactions every replica has the same root.
//
// It reads no clock, disk or network and draws nothing at random; a block's
// height and time are arguments.
//
//	L1  money is conserved: balances, locks, stakes, escrow and what was burned
//	    add up to the genesis supply and the yield after every transaction
//	L2  no nonce works twice, and no transaction has its effect twice
//	L3  a transaction that fails changes nothing but its fee and its nonce (a
//	    validator's yield may be paid by it, up to its own time)
//	L4  a channel never pays more than its cap, and repeating a claim pays nothing
//	L5  a node key can credit its owner, and can neither spend nor burn
//	L6  a batch happens whole or not at all
//	L7  the same transactions give the same root, also after a snapshot
//	L8  a proof verifies against its own root only, for presence and for absence
//	L9  the root does not change in a block that changes nothing
//
// docs/wire.md has the bytes, docs/decisions/ the choices.
package ledger

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"slices"

	"top/lib/stake"
	"top/lib/top"
	"top/lib/wire"
)

// pageSize is how many accounts share a leaf of the hot and the cold tree.
const pageSize = 64

// An Account is everything the ledger holds of one key, by its dense index.
type Account struct {
	// hot: what a payment touches
	Balance     top.Amount
	Nonce       uint64 // the highest used
	Window      uint64 // bit i: Nonce-i is used
	Allowance   uint64 // bytes × msPerDay, as of AllowanceAt
	AllowanceAt uint64 // unix milliseconds
	// cold
	Key       top.Address
	Node      top.NodeID // zero when it runs none
	Locked    top.Amount
	Unlocking top.Amount
	UnlockAt  uint64 // unix seconds
	Channels  uint32 // open channels that it pays for
	Mailbox   top.ID // digest of its newest mailbox record; zero when it has none
	MailSeq   uint64 // number of that record
}

type hot struct {
	balance     top.Amount
	nonce       uint64
	window      uint64
	allowance   uint64
	allowanceAt uint64
}

type cold struct {
	key       top.Address
	node      top.NodeID
	locked    top.Amount
	unlocking top.Amount
	unlockAt  uint64
	channels  uint32
	mailSeq   uint64
	mailbox   top.ID
}

// hotSize and coldSize are the bytes of one account in a page.
const (
	hotSize  = 40
	coldSize = 132
)

func (h *hot) put(b []byte) {
	binary.BigEndian.PutUint64(b, uint64(h.balance))
	binary.BigEndian.PutUint64(b[8:], h.nonce)
	binary.BigEndian.PutUint64(b[16:], h.window)
	binary.BigEndian.PutUint64(b[24:], h.allowance)
	binary.BigEndian.PutUint64(b[32:], h.allowanceAt)
}

func (h *hot) get(b []byte) {
	h.balance = top.Amount(binary.BigEndian.Uint64(b))
	h.nonce = binary.BigEndian.Uint64(b[8:])
	h.window = binary.BigEndian.Uint64(b[16:])
	h.allowance = binary.BigEndian.Uint64(b[24:])
	h.allowanceAt = binary.BigEndian.Uint64(b[32:])
}

func (c *cold) put(b []byte) {
	copy(b, c.key[:])
	copy(b[32:], c.node[:])
	binary.BigEndian.PutUint64(b[64:], uint64(c.locked))
	binary.BigEndian.PutUint64(b[72:], uint64(c.unlocking))
	binary.BigEndian.PutUint64(b[80:], c.unlockAt)
	binary.BigEndian.PutUint32(b[88:], c.channels)
	binary.BigEndian.PutUint64(b[92:], c.mailSeq)
	copy(b[100:], c.mailbox[:])
}

func (c *cold) get(b []byte) {
	copy(c.key[:], b)
	copy(c.node[:], b[32:])
	c.locked = top.Amount(binary.BigEndian.Uint64(b[64:]))
	c.unlocking = top.Amount(binary.BigEndian.Uint64(b[72:]))
	c.unlockAt = binary.BigEndian.Uint64(b[80:])
	c.channels = binary.BigEndian.Uint32(b[88:])
	c.mailSeq = binary.BigEndian.Uint64(b[92:])
	copy(c.mailbox[:], b[100:])
}

// State is the whole ledger at one height. It is not safe for concurrent use.
type State struct {
	params Params
	kinds  uint64     // bit k: the chain takes kind k
	supply top.Amount // at genesis
	burned top.Amount // by fees

	height top.Height // of the block being applied; not in the root
	now    uint64     // its time, unix milliseconds; not in the root

	hot  []hot
	cold []cold

	hotPages, coldPages pageTree
	index               trie // address → index
	channels            trie // channel id → row
	nodes               trie // node id → row
	stakes              stakeTree
	stake               *stake.Book

	byKey     map[top.Address]uint32
	channel   map[top.ID]*Channel
	node      map[top.NodeID]*Node
	nodeList  []top.NodeID        // sorted
	ofAccount map[uint32][]top.ID // channels paid or earned, sorted
	unlocks   unlockQueue         // accounts with coins on their way back
	moves     []Move              // of the last Result
	warmed    byte                // what Warm read, so that it must read it
}

// New is the state at genesis.
func New(g Genesis) (*State, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	s := empty(g.Params)
	s.now = g.Time * 1000
	for _, a := range g.Accounts {
		i := s.addAccount(a.Address)
		s.hot[i].balance = a.Balance
		s.cold[i].locked = a.Locked
		s.hot[i].allowanceAt = s.now
		s.supply += a.Balance + a.Locked
	}
	for _, v := range g.Validators {
		s.supply += v.Stake
	}
	s.openBook()
	return s, s.found(g.Validators)
}

// openBook opens the book of stakes, once the supply is known.
func (s *State) openBook() { s.stake = stake.New(&s.params.Stake, s.supply, &s.stakes) }

func empty(p Params) *State {
	return &State{
		stakes:    stakeTree{rows: map[[32]byte][]byte{}},
		params:    p,
		kinds:     p.mask(),
		byKey:     map[top.Address]uint32{},
		channel:   map[top.ID]*Channel{},
		node:      map[top.NodeID]*Node{},
		ofAccount: map[uint32][]top.ID{},
	}
}

// addAccount gives a new address the next index, with nothing in it.
func (s *State) addAccount(a top.Address) uint32 {
	i := uint32(len(s.hot))
	s.hot = append(s.hot, hot{})
	s.cold = append(s.cold, cold{key: a})
	s.byKey[a] = i
	s.index.put(a, leafHash(indexDomain, a, indexValue(i)))
	s.hotPages.touch(i)
	s.coldPages.touch(i)
	return i
}

func indexValue(i uint32) []byte { return binary.BigEndian.AppendUint32(nil, i) }

// Params is the genesis parameters.
func (s *State) Params() Params { return s.params }

// Supply is the money at genesis.
func (s *State) Supply() top.Amount { return s.supply }

// Minted is what the yield of stakes has added to the supply.
func (s *State) Minted() top.Amount { return s.stake.Minted() }

// Burned is what fees and penalties have taken out of the supply.
func (s *State) Burned() top.Amount { return s.burned + s.stake.Burned() }

// Accounts is the number of accounts; indexes are below it.
func (s *State) Accounts() int { return len(s.hot) }

// Height is the block last begun.
func (s *State) Height() top.Height { return s.height }

// Now is the time of the block last begun, in unix milliseconds.
func (s *State) Now() uint64 { return s.now }

// Index is the index of an address.
func (s *State) Index(a top.Address) (uint32, bool) {
	i, ok := s.byKey[a]
	return i, ok
}

// Account is the account at an index, which must be below Accounts.
func (s *State) Account(i uint32) Account { return join(s.hot[i], s.cold[i]) }

func join(h hot, c cold) Account {
	return Account{
		Balance: h.balance, Nonce: h.nonce, Window: h.window, Allowance: h.allowance, AllowanceAt: h.allowanceAt,
		Key: c.key, Node: c.node, Locked: c.locked, Unlocking: c.unlocking, UnlockAt: c.unlockAt, Channels: c.channels,
		Mailbox: c.mailbox, MailSeq: c.mailSeq,
	}
}

// Channel is an open channel.
func (s *State) Channel(id top.ID) (Channel, bool) {
	c, ok := s.channel[id]
	if !ok {
		return Channel{}, false
	}
	return *c, true
}

// ChannelsOf is the open channels that an account pays for or earns from, in
// the order of their ids. The slice is the caller's.
func (s *State) ChannelsOf(i uint32) []top.ID { return slices.Clone(s.ofAccount[i]) }

// Node is a row of the registry.
func (s *State) Node(id top.NodeID) (Node, bool) {
	n, ok := s.node[id]
	if !ok {
		return Node{}, false
	}
	return n.clone(), true
}

// Nodes is the nodes that offer a service ("" is all), in the order of their ids.
func (s *State) Nodes(service string) []top.NodeID {
	var ids []top.NodeID
	for _, id := range s.nodeList {
		if service == "" || s.node[id].offers(service) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Begin starts a block: it notes height and time and lets matured unlocks and
// undelegated coins go.
// Time that would go back stays where it was. The accounts whose coins came back
// are returned, in the order in which they matured.
func (s *State) Begin(height top.Height, unixMilli uint64) []Move {
	s.height = height
	s.now = max(s.now, unixMilli)
	var moves []Move
	for len(s.unlocks) > 0 && s.unlocks[0].at <= s.now/1000 {
		u := heap.Pop(&s.unlocks).(unlock)
		c := &s.cold[u.account]
		if c.unlocking == 0 || c.unlockAt != u.at {
			continue // a later unlock moved the time
		}
		s.hot[u.account].balance += c.unlocking
		moves = append(moves, Move{Account: u.account, Way: In, Amount: c.unlocking, Peer: u.account})
		c.unlocking, c.unlockAt = 0, 0
		s.touch(u.account)
	}
	for _, r := range s.stake.Begin(s.now) {
		s.hot[r.Who].balance += r.Amount
		moves = append(moves, Move{Account: r.Who, Way: In, Amount: r.Amount, Peer: r.Who})
		s.touch(r.Who)
	}
	return moves
}

// touch marks both pages of an account as changed.
func (s *State) touch(i uint32) {
	s.hotPages.touch(i)
	s.coldPages.touch(i)
}

type unlock struct {
	at      uint64
	account uint32
}

// unlockQueue is a heap by time, then account. It may hold entries that a later
// unlock made stale: the account's own UnlockAt decides.
type unlockQueue []unlock

func (q unlockQueue) Len() int { return len(q) }
func (q unlockQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].account < q[j].account
}
func (q unlockQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push is for container/heap.
func (q *unlockQueue) Push(x any) { *q = append(*q, x.(unlock)) }

// Pop is for container/heap.
func (q *unlockQueue) Pop() any {
	last := len(*q) - 1
	u := (*q)[last]
	*q = (*q)[:last]
	return u
}

// Root is the state root, which a block's header carries after the block (L9:
// neither height nor time is in it).
func (s *State) Root() top.ID {
	r := s.roots()
	return r.root()
}

// hotPage is the bytes of a hot page; accounts that are not there are zero.
func (s *State) hotPage(page int, buf []byte) []byte {
	buf = pageBuffer(buf, pageSize*hotSize)
	for i := range pageSize {
		if at := page*pageSize + i; at < len(s.hot) {
			s.hot[at].put(buf[i*hotSize:])
		}
	}
	return buf
}

func (s *State) coldPage(page int, buf []byte) []byte {
	buf = pageBuffer(buf, pageSize*coldSize)
	for i := range pageSize {
		if at := page*pageSize + i; at < len(s.cold) {
			s.cold[at].put(buf[i*coldSize:])
		}
	}
	return buf
}

func pageBuffer(buf []byte, n int) []byte {
	if cap(buf) < n {
		return make([]byte, n)
	}
	buf = buf[:n]
	clear(buf)
	return buf
}

// Meta is what the root says of the chain as a whole.
type Meta struct {
	Params   Params
	Supply   top.Amount // at genesis
	Minted   top.Amount // since
	Burned   top.Amount // since
	Accounts uint32
}

func (s *State) meta() Meta {
	return Meta{s.params, s.supply, s.Minted(), s.Burned(), uint32(len(s.hot))}
}

func (m Meta) encode() []byte {
	var e wire.Encoder
	m.Params.put(&e)
	e.Amount(m.Supply)
	e.Amount(m.Minted)
	e.Amount(m.Burned)
	e.Uint(uint64(m.Accounts))
	return e.Out()
}

func (m *Meta) get(d *wire.Decoder) {
	m.Params.get(d)
	m.Supply, m.Minted, m.Burned, m.Accounts = d.Amount(), d.Amount(), d.Amount(), d.Uint32()
}

func (m Meta) hash() top.ID { return wire.Digest("top/meta/1", m.encode()) }

// Check walks the whole state and says which invariant does not hold. It is
// slow: for tests and for builds tagged paranoid.
func (s *State) Check() error {
	sum := s.Burned() + s.stake.Locked()
	add := func(a top.Amount) { sum += a }
	open := make(map[uint32]uint32)
	for i := range s.hot {
		add(s.hot[i].balance)
		add(s.cold[i].locked)
		add(s.cold[i].unlocking)
		if s.byKey[s.cold[i].key] != uint32(i) {
			return fmt.Errorf("account %d: its address has another index", i)
		}
	}
	for id, c := range s.channel {
		if c.Paid > c.Cap {
			return fmt.Errorf("L4: channel %s paid %s of %s", id.Short(), c.Paid, c.Cap)
		}
		add(c.Cap - c.Paid)
		open[c.Payer]++
	}
	for i := range s.cold {
		if s.cold[i].channels != open[uint32(i)] {
			return fmt.Errorf("account %d: counts %d channels and has %d", i, s.cold[i].channels, open[uint32(i)])
		}
	}
	for _, n := range s.node {
		add(n.Stake)
	}
	if have := s.supply + s.Minted(); sum != have {
		return fmt.Errorf("L1: %d nano are accounted for, the supply is %d", sum, have)
	}
	return s.stake.Check(len(s.hot))
}
