package chain

import (
	"encoding/binary"
	"fmt"

	dbm "github.com/cometbft/cometbft-db"

	"top/lib/top"
	"top/lib/wire"
)

// The index is what a node remembers beside the state: where each transaction
// stands, what became of it, and each account's history. It is written once for
// each block, whole or not at all, and never again when the block is replayed
// (C4).
//
//	m                        height of the last block in it
//	b HEIGHT                 the rows of a block
//	t TXID                   height, place
//	h ACCOUNT SEQ            an entry of an account's history, from seq 1
//	n ACCOUNT                how many entries it has
type index struct{ db dbm.DB }

// A row is one transaction and its result, as the index keeps it.
type row struct {
	ID      top.ID
	Kind    string      // of the transaction; "" when it could not be read
	From    top.Address // who pays
	Outcome Outcome
	Error   string // a kind
	Message string
	Size    uint32
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
	maxRow     = 2 << 10
)

// height is the last block in the index; 0 when it is empty.
func (x index) height() (top.Height, error) {
	v, err := x.db.Get([]byte("m"))
	if err != nil || len(v) != 8 {
		return 0, err
	}
	return top.Height(binary.BigEndian.Uint64(v)), nil
}

// add puts a block into the index, unless it is there. sync makes it durable.
func (x index) add(height top.Height, rows []row, entries []entry, sync bool) error {
	have, err := x.height()
	if err != nil {
		return fmt.Errorf("index block %d: %w", height, err)
	}
	if n, err := x.db.Has(key("m")); err != nil || n && height <= have {
		return err
	}
	b := x.db.NewBatch()
	defer b.Close()
	if err := x.put(b, height, rows, entries); err != nil {
		return fmt.Errorf("index block %d: %w", height, err)
	}
	write := b.Write
	if sync {
		write = b.WriteSync
	}
	if err := write(); err != nil {
		return fmt.Errorf("index block %d: %w", height, err)
	}
	return nil
}

func (x index) put(b dbm.Batch, height top.Height, rows []row, entries []entry) error {
	var e wire.Encoder
	e.Uint(uint64(len(rows)))
	for i, r := range rows {
		e.Bytes(r.encode())
		if err := b.Set(key("t", r.ID[:]), be64(uint64(height), uint64(i))); err != nil {
			return err
		}
	}
	if len(rows) > 0 {
		if err := b.Set(key("b", be64(uint64(height))), e.Out()); err != nil {
			return err
		}
	}
	counts := map[uint32]uint64{}
	for _, n := range entries {
		if _, ok := counts[n.Account]; !ok {
			c, err := x.entries(n.Account)
			if err != nil {
				return err
			}
			counts[n.Account] = c
		}
		counts[n.Account]++
		if err := b.Set(key("h", be32(n.Account), be64(counts[n.Account])), n.encode()); err != nil {
			return err
		}
	}
	for account, c := range counts {
		if err := b.Set(key("n", be32(account)), be64(c)); err != nil {
			return err
		}
	}
	return b.Set(key("m"), be64(uint64(height)))
}

// sync makes every block added so far durable.
func (x index) sync() error { return x.db.SetSync(key("s"), []byte{1}) }

// entries is how many entries an account's history has.
func (x index) entries(account uint32) (uint64, error) {
	v, err := x.db.Get(key("n", be32(account)))
	if err != nil || len(v) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

// rows is the transactions of a block, in order.
func (x index) rows(height top.Height) ([]row, error) {
	v, err := x.db.Get(key("b", be64(uint64(height))))
	if err != nil || v == nil {
		return nil, err
	}
	d := wire.Decode(v, len(v))
	n := d.Count(maxBlock, 1)
	rows := make([]row, n)
	for i := range rows {
		if err := rows[i].decode(d.Bytes(maxRow)); err != nil && d.Err() == nil {
			return nil, fmt.Errorf("index of block %d: %w", height, err)
		}
	}
	return rows, d.End()
}

// find is where a transaction stands; ok is false when no block holds it.
func (x index) find(id top.ID) (height top.Height, at int, ok bool, err error) {
	v, err := x.db.Get(key("t", id[:]))
	if err != nil || len(v) != 16 {
		return 0, 0, false, err
	}
	return top.Height(binary.BigEndian.Uint64(v)), int(binary.BigEndian.Uint64(v[8:])), true, nil
}

// history calls each with the entries of an account after since, oldest first,
// until each says false.
func (x index) history(account uint32, since uint64, each func(seq uint64, n entry) (bool, error)) error {
	if since == ^uint64(0) {
		return nil
	}
	it, err := x.db.Iterator(key("h", be32(account), be64(since+1)), key("h", be32(account+1)))
	if err != nil {
		return err
	}
	defer it.Close()
	for ; it.Valid(); it.Next() {
		var n entry
		if err := n.decode(it.Value()); err != nil {
			return err
		}
		n.Account = account
		more, err := each(binary.BigEndian.Uint64(it.Key()[5:]), n)
		if err != nil || !more {
			return err
		}
	}
	return it.Error()
}

func (r row) encode() []byte {
	var e wire.Encoder
	e.Raw(r.ID[:])
	e.String(cut(r.Kind, maxName))
	e.Raw(r.From[:])
	e.Uint(uint64(r.Outcome.Code))
	e.Bytes(r.Outcome.data())
	e.String(cut(r.Error, maxName))
	e.String(cut(r.Message, maxMessage))
	e.Uint(uint64(r.Size))
	return e.Out()
}

func (r *row) decode(b []byte) error {
	d := wire.Decode(b, maxRow)
	r.ID = d.ID()
	r.Kind = d.String(maxName)
	d.Fill(r.From[:])
	code, data := d.Uint32(), d.Bytes(maxOutcome)
	r.Error, r.Message, r.Size = d.String(maxName), d.String(maxMessage), d.Uint32()
	if err := d.End(); err != nil {
		return err
	}
	var err error
	r.Outcome, err = decodeOutcome(code, data)
	return err
}

func (n entry) encode() []byte {
	var e wire.Encoder
	e.Raw(n.Tx[:])
	e.String(cut(n.Kind, maxName))
	e.Byte(n.Way)
	e.Amount(n.Amount)
	e.Amount(n.Fee)
	e.Bool(n.Free)
	e.Uint(uint64(n.Peer))
	e.Uint(uint64(n.Peers))
	e.Bool(n.Channel != nil)
	if n.Channel != nil {
		e.Raw(n.Channel[:])
	}
	e.String(cut(n.Error, maxName))
	e.Uint(uint64(n.Height))
	e.Uint(n.TimeMs)
	return e.Out()
}

func (n *entry) decode(b []byte) error {
	d := wire.Decode(b, maxRow)
	n.Tx, n.Kind, n.Way = d.ID(), d.String(maxName), d.Byte()
	n.Amount, n.Fee, n.Free = d.Amount(), d.Amount(), d.Bool()
	n.Peer, n.Peers = d.Uint32(), d.Uint32()
	if d.Bool() {
		id := d.ID()
		n.Channel = &id
	}
	n.Error, n.Height, n.TimeMs = d.String(maxName), top.Height(d.Uint()), d.Uint()
	if int(n.Way) >= len(wayNames) {
		d.Fail("way %d", n.Way)
	}
	return d.End()
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
