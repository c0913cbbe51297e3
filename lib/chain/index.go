package chain

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	dbm "github.com/cometbft/cometbft-db"

	"top/lib/top"
	"top/lib/wire"
)

// The index is what a node remembers beside the state: where each transaction
// stands, what became of it, and each account's history. It is written once for
// each block, whole or not at all, and never again when the block is replayed
// (C4). Where things stand is kept in memory for the last blocks, and from time to
// time written as a sorted run, a few hundred to a key: a key for each would cost
// more than all the rest of a payment (docs/decisions/0010-bundles.md).
//
//	m                        height of the last block, number of runs, first block that is in none
//	f                        first block, when it is not 1
//	b HEIGHT                 time, entries of the block itself, rows with their entries
//	p RUN ACCOUNT CHUNK      where entries of accounts from ACCOUNT on stand, in their order
//	q RUN PREFIX             where transactions stand whose ids begin from PREFIX on
type index struct {
	db  dbm.DB
	raw func(h top.Height, place uint32) ([]byte, error) // the bytes of a transaction

	mu    sync.RWMutex
	last  top.Height
	begun bool // genesis is in it
	runs  uint32
	from  top.Height // the first block of the tail
	begin top.Height // the first block of all
	posts []posting
	ids   map[uint64]place
}

// A place is where a transaction stands.
type place struct {
	height top.Height
	at     uint32
}

// A posting is where an entry of an account stands. The second of one account and
// place is the account's second entry there.
type posting struct {
	account uint32
	at      uint32 // ofBlock is the block itself
	height  top.Height
}

const (
	ofBlock    = 1<<32 - 1
	runEntries = 1 << 18 // entries, or ids, of the tail before it becomes a run
	chunkSize  = 256     // of them under one key
)

// A row is one transaction and its result, as the index keeps it.
type row struct {
	ID      top.ID
	Kind    string      // of the transaction; "" when it could not be read
	From    top.Address // who pays
	Outcome Outcome
	Error   string // a kind
	Message string
	Size    uint32

	again   bool // it stands in an earlier block too, and this time changed nothing
	entries []entry
	credits []uint32 // accounts that a batch paid, by record; what they got stands in the transaction
}

// An entry is one change of one account's money.
type entry struct {
	Account uint32
	Tx      top.ID
	Kind    string // of the transaction, "genesis" or "unlocked"
	Way     byte
	Amount  top.Amount
	Fee     top.Amount
	Free    bool
	Peer    uint32 // counts when Peers is 1
	Peers   uint32
	Channel *top.ID
	Error   string
	Height  top.Height
	TimeMs  uint64
}

// The ways of an entry.
const (
	wayNone byte = iota
	wayIn
	wayOut
)

var wayNames = [...]string{"none", "in", "out"}

const (
	maxMessage = 512
	maxName    = 32
	maxRows    = 1 << 20
)

// openIndex reads where the index ends, and its tail into memory.
func openIndex(db dbm.DB) (*index, error) {
	x := &index{db: db, ids: map[uint64]place{}, from: 1, begin: 1}
	if v, err := db.Get(key("f")); err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	} else if len(v) == 8 {
		x.begin = top.Height(binary.BigEndian.Uint64(v))
	}
	v, err := db.Get(key("m"))
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	if v == nil {
		return x, nil
	}
	d := wire.Decode(v, len(v))
	x.last, x.runs, x.from, x.begun = top.Height(d.Uint64()), d.Uint32(), top.Height(d.Uint64()), true
	if err := d.End(); err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	for h := x.from; h <= x.last; h++ {
		b, err := x.block(h)
		if err != nil {
			return nil, fmt.Errorf("open index: %w", err)
		}
		x.posts, _ = x.append(x.posts, x.ids, h, b)
	}
	return x, nil
}

// height is the last block in the index; 0 when it is empty.
func (x *index) height() top.Height {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.last
}

// first is the first block in the index: 1, or the one after the snapshot with which
// the node joined.
func (x *index) first() top.Height {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.begin
}

// A blockRows is what the index keeps of one block.
type blockRows struct {
	timeMs  uint64
	entries []entry // of the block itself
	rows    []row
}

// add puts a block into the index, unless it is there. sync makes it durable.
func (x *index) add(height top.Height, b blockRows, sync bool) error {
	if x.begun && height <= x.last {
		return nil
	}
	for i := range b.rows {
		// What changed nothing may be the second of the same transaction: the first
		// is what became of it.
		if r := &b.rows[i]; r.Outcome.Code != 0 && r.Outcome.Fee == 0 && !r.Outcome.Free {
			_, _, seen, err := x.find(r.ID)
			if err != nil {
				return fmt.Errorf("index block %d: %w", height, err)
			}
			r.again = seen
		}
	}
	if err := x.write(height, b, sync); err != nil {
		return fmt.Errorf("index block %d: %w", height, err)
	}
	return nil
}

func (x *index) write(height top.Height, b blockRows, sync bool) error {
	batch := x.db.NewBatch()
	defer batch.Close()
	if len(b.rows)+len(b.entries) > 0 {
		if err := batch.Set(key("b", be64(uint64(height))), b.encode()); err != nil {
			return err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	posts, ids := x.append(x.posts, x.ids, height, b)
	runs, from := x.runs, x.from
	seal := len(posts) >= runEntries || len(ids) >= runEntries
	if height == 0 {
		from = 0
	}
	if seal {
		if err := putRun(batch, runs, posts, ids); err != nil {
			return err
		}
		runs, from, posts, ids = runs+1, height+1, nil, map[uint64]place{}
	}
	if err := batch.Set(key("m"), indexMark(height, runs, from)); err != nil {
		return err
	}
	do := batch.Write
	if sync {
		do = batch.WriteSync
	}
	if err := do(); err != nil {
		return err
	}
	x.last, x.begun, x.runs, x.from, x.posts, x.ids = height, true, runs, from, posts, ids
	return nil
}

// indexMark is the value of key m.
func indexMark(last top.Height, runs uint32, from top.Height) []byte {
	var m wire.Encoder
	m.Uint64(uint64(last))
	m.Uint(uint64(runs))
	m.Uint64(uint64(from))
	return m.Out()
}

// append adds a block to a tail.
func (x *index) append(posts []posting, ids map[uint64]place, height top.Height, b blockRows) ([]posting, map[uint64]place) {
	for _, e := range b.entries {
		posts = append(posts, posting{e.Account, ofBlock, height})
	}
	for i := range b.rows {
		r := &b.rows[i]
		for _, e := range r.entries {
			posts = append(posts, posting{e.Account, uint32(i), height})
		}
		for _, a := range r.credits {
			posts = append(posts, posting{a, uint32(i), height})
		}
		p := prefix(r.ID)
		if _, first := ids[p]; !r.again && !(first && r.Outcome.Code != 0) {
			ids[p] = place{height, uint32(i)}
		}
	}
	return posts, ids
}

func prefix(id top.ID) uint64 { return binary.BigEndian.Uint64(id[:]) }

// putRun writes a tail as a run.
func putRun(b dbm.Batch, run uint32, posts []posting, ids map[uint64]place) error {
	posts = byAccount(posts)
	n := uint32(0)
	for part := range slices.Chunk(posts, chunkSize) {
		var e wire.Encoder
		for _, p := range part {
			e.Uint(uint64(p.account - part[0].account))
			e.Uint(uint64(p.height))
			e.Uint(uint64(p.at))
		}
		if err := b.Set(key("p", be32(run), be32(part[0].account), be32(n)), e.Out()); err != nil {
			return err
		}
		n++
	}
	prefixes := make([]uint64, 0, len(ids))
	for p := range ids {
		prefixes = append(prefixes, p)
	}
	slices.Sort(prefixes)
	for part := range slices.Chunk(prefixes, chunkSize) {
		var e wire.Encoder
		for _, p := range part {
			e.Uint(p - part[0])
			e.Uint(uint64(ids[p].height))
			e.Uint(uint64(ids[p].at))
		}
		if err := b.Set(key("q", be32(run), be64(part[0])), e.Out()); err != nil {
			return err
		}
	}
	return nil
}

// byAccount is postings in the order of their accounts, and those of one account in
// the order in which they were: a radix sort, which a run of batches needs.
func byAccount(posts []posting) []posting {
	const bits, mask = 11, 1<<11 - 1
	most := uint32(0)
	for _, p := range posts {
		most = max(most, p.account)
	}
	from, to := slices.Clone(posts), make([]posting, len(posts))
	for shift := 0; shift < 32 && most>>shift > 0; shift += bits {
		var at [mask + 1]int
		for i := range from {
			at[from[i].account>>shift&mask]++
		}
		sum := 0
		for i, n := range at {
			at[i], sum = sum, sum+n
		}
		for i := range from {
			slot := &at[from[i].account>>shift&mask]
			to[*slot] = from[i]
			*slot++
		}
		from, to = to, from
	}
	return from
}

// sync makes every block added so far durable.
func (x *index) sync() error { return x.db.SetSync(key("s"), []byte{1}) }

// block is what is kept of a block.
func (x *index) block(height top.Height) (b blockRows, err error) {
	v, err := x.db.Get(key("b", be64(uint64(height))))
	if err != nil || v == nil {
		return b, err
	}
	if err := b.decode(v, height); err != nil {
		return b, fmt.Errorf("index of block %d: %w", height, err)
	}
	return b, nil
}

// rows is the transactions of a block, in order.
func (x *index) rows(height top.Height) ([]row, error) {
	b, err := x.block(height)
	return b.rows, err
}

// find is where a transaction stands; ok is false when no block holds it.
func (x *index) find(id top.ID) (height top.Height, at int, ok bool, err error) {
	x.mu.RLock()
	runs := x.runs
	p, ok := x.ids[prefix(id)]
	x.mu.RUnlock()
	if ok {
		return p.height, int(p.at), true, nil
	}
	for run := runs; run > 0; run-- {
		p, ok, err := x.inRun(run-1, prefix(id))
		if err != nil {
			return 0, 0, false, err
		}
		if !ok {
			continue
		}
		rows, err := x.rows(p.height)
		if err != nil {
			return 0, 0, false, err
		}
		if int(p.at) < len(rows) && rows[p.at].ID == id {
			return p.height, int(p.at), true, nil
		}
	}
	return 0, 0, false, nil
}

// inRun looks for an id's prefix in a run.
func (x *index) inRun(run uint32, want uint64) (p place, ok bool, err error) {
	end := key("q", be32(run+1))
	if want < 1<<64-1 {
		end = key("q", be32(run), be64(want+1))
	}
	it, err := x.db.ReverseIterator(key("q", be32(run)), end)
	if err != nil {
		return p, false, err
	}
	defer it.Close()
	if !it.Valid() {
		return p, false, it.Error()
	}
	first := binary.BigEndian.Uint64(it.Key()[5:])
	for d := wire.Decode(it.Value(), len(it.Value())); d.Len() > 0; {
		got := first + d.Uint()
		p = place{top.Height(d.Uint()), d.Uint32()}
		if d.Err() != nil {
			return p, false, d.Err()
		}
		if got == want {
			return p, true, nil
		}
	}
	return p, false, nil
}

// ofRun is where the entries of an account stand in a run.
func (x *index) ofRun(run, account uint32) (all []posting, err error) {
	end := key("p", be32(run+1))
	if account < 1<<32-1 {
		end = key("p", be32(run), be32(account+1))
	}
	it, err := x.db.ReverseIterator(key("p", be32(run)), end)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var parts [][]posting
	for ; it.Valid(); it.Next() {
		first := binary.BigEndian.Uint32(it.Key()[5:])
		var part []posting
		for d := wire.Decode(it.Value(), len(it.Value())); d.Len() > 0; {
			p := posting{account: first + uint32(d.Uint()), height: top.Height(d.Uint()), at: d.Uint32()}
			if d.Err() != nil {
				return nil, d.Err()
			}
			if p.account == account {
				part = append(part, p)
			}
		}
		parts = append(parts, part)
		if first < account {
			break
		}
	}
	slices.Reverse(parts)
	return slices.Concat(parts...), it.Error()
}

// cut keeps the first n bytes of s.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func key(prefix string, parts ...[]byte) []byte {
	k := []byte(prefix)
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func be64(vs ...uint64) []byte {
	var b []byte
	for _, v := range vs {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}
