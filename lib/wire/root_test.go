package wire_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/top"
	"top/lib/wire"
)

// The state root of the vectors, made by docs/wire.md, "State root", alone: what
// the page leaves out would show here.
func TestTheRootAsThePageSaysIt(t *testing.T) {
	chain := top.ChainID{1, 2, 3, 4, 5, 6, 7, 8}
	s, channel := world(t, chain)
	node := top.NodeID(keys.FromSeed([32]byte{2}).Public())
	var hot, cold []byte
	var addresses [][32]byte
	for i := range uint32(2) {
		a := s.Account(i)
		for _, n := range []uint64{uint64(a.Balance), a.Nonce, a.Window, a.Allowance, a.AllowanceAt} {
			hot = binary.BigEndian.AppendUint64(hot, n)
		}
		cold = append(append(cold, a.Key[:]...), a.Node[:]...)
		for _, n := range []uint64{uint64(a.Locked), uint64(a.Unlocking), a.UnlockAt} {
			cold = binary.BigEndian.AppendUint64(cold, n)
		}
		cold = binary.BigEndian.AppendUint32(cold, a.Channels)
		cold = append(binary.BigEndian.AppendUint64(cold, a.MailSeq), a.Mailbox[:]...)
		addresses = append(addresses, a.Key)
	}
	page := func(b []byte, size int) top.ID {
		return sha256.Sum256(append([]byte{0}, append(b, make([]byte, 64*size-len(b))...)...))
	}
	c, _ := s.Channel(channel)
	got := wire.Digest("top/state/1", ids(
		meta(s), page(hot, 40), page(cold, 132), index(addresses),
		leaf("top/leaf/channel/1", channel, channelRow(c)), leaf("top/leaf/node/1", node, nodeRow(s, node)),
		stakes(s),
	)...)
	if got != s.Root() {
		t.Errorf("the page makes the root %s, the code %s", got, s.Root())
	}
}

func ids(all ...top.ID) (parts [][]byte) {
	for i := range all {
		parts = append(parts, all[i][:])
	}
	return parts
}

func leaf(domain string, key [32]byte, value []byte) top.ID {
	return wire.Digest(domain, key[:], value)
}

func meta(s *ledger.State) top.ID {
	p := s.Params()
	k := p.Stake
	b := append([]byte(nil), p.Chain[:]...)
	for _, n := range []uint64{
		1<<19 - 1<<1, // kinds 1 to 18
		uint64(p.FeePerByte), uint64(p.AccountFee), p.AllowanceBytes, p.UnlockSeconds, p.DeadlineSec, p.DeadlineBlocks,
		k.EpochBlocks, k.MaxValidators, uint64(k.MinSelf), k.UnbondSeconds, k.YieldPPM, k.DoubleSignPPM, k.DowntimePPM, k.DowntimeEpochs,
		k.JailSeconds, k.VoteEpochs, uint64(k.Deposit),
		uint64(s.Supply()), uint64(s.Minted()), uint64(s.Burned()), uint64(s.Accounts()),
	} {
		b = binary.AppendUvarint(b, n)
	}
	return wire.Digest("top/meta/1", b)
}

// index is the tree of the addresses.
func index(at [][32]byte) top.ID {
	leaves := map[[32]byte]top.ID{}
	for i := range at {
		leaves[at[i]] = leaf("top/leaf/index/1", at[i], binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	return tree(leaves)
}

// tree is the crit-bit tree of leaves by their keys: it parts them at the first bit
// in which two differ, and so on.
func tree(leaves map[[32]byte]top.ID) top.ID {
	keys := slices.SortedFunc(maps.Keys(leaves), func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	if len(keys) == 1 {
		return leaves[keys[0]]
	}
	first, last := keys[0], keys[len(keys)-1]
	bit := 0
	for first[bit/8]>>(7-bit%8)&1 == last[bit/8]>>(7-bit%8)&1 {
		bit++
	}
	half := [2]map[[32]byte]top.ID{{}, {}}
	for _, k := range keys {
		half[k[bit/8]>>(7-bit%8)&1][k] = leaves[k]
	}
	left, right := tree(half[0]), tree(half[1])
	b := binary.BigEndian.AppendUint16([]byte{2}, uint16(bit))
	return sha256.Sum256(append(append(b, left[:]...), right[:]...))
}

// stakes is the tree of the head, the validator and its owner's delegation.
func stakes(s *ledger.State) top.ID {
	id := top.ValidatorID(keys.FromSeed([32]byte{4}).Public())
	v, _ := s.Stake().Validator(id)
	d, _ := s.Stake().Delegation(id, 0)
	_, next := s.Stake().Epoch()
	uints := func(b []byte, all ...uint64) []byte {
		for _, n := range all {
			b = binary.AppendUvarint(b, n)
		}
		return b
	}
	head := uints([]byte{1, 1}, 0, uint64(next), 0, 0, 0)
	row := append(uints(append([]byte{2}, id[:]...), 0, 1), 'v')
	row = uints(row, 500, 0, uint64(v.Tokens), v.Shares, v.Settled, 2000, 0, 0, 0, 0, 0)
	part := uints(append([]byte{3}, id[:]...), 0, d.Shares)
	leaves := map[[32]byte]top.ID{}
	for _, r := range []struct{ name, row []byte }{{[]byte{1}, head}, {append([]byte{2}, id[:]...), row}, {append(append([]byte{3}, id[:]...), 0), part}} {
		key := wire.Digest("top/stake/row/1", r.name)
		leaves[key] = leaf("top/leaf/stake/1", key, r.row)
	}
	return tree(leaves)
}

func channelRow(c ledger.Channel) (b []byte) {
	for _, n := range []uint64{
		uint64(c.Payer), uint64(c.Provider), uint64(c.Cap), uint64(c.Paid), c.Seq, uint64(c.Opened), c.Expiry, uint64(c.ExpiryHeight), 0,
	} {
		b = binary.AppendUvarint(b, n) // a bool of 0 is the uint 0
	}
	return b
}

func nodeRow(s *ledger.State, id top.NodeID) []byte {
	n, _ := s.Node(id)
	var e wire.Encoder
	e.Uint(uint64(n.Owner))
	e.Raw(id[:])
	e.Raw(make([]byte, 64))
	e.String(n.Name)
	e.Uint(uint64(len(n.Addrs)))
	e.Uint(uint64(len(n.Offers)))
	for _, o := range n.Offers {
		o.Put(&e)
	}
	e.Uint(n.Capacity)
	e.Amount(n.Stake)
	return e.Out()
}
