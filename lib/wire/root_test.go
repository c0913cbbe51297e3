package wire_test

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
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
	b := append([]byte(nil), p.Chain[:]...)
	for _, n := range []uint64{
		1<<12 - 1<<1, // kinds 1 to 11
		uint64(p.FeePerByte), uint64(p.AccountFee), p.AllowanceBytes, p.UnlockSeconds, p.DeadlineSec, p.DeadlineBlocks,
		uint64(s.Supply()), uint64(s.Burned()), uint64(s.Accounts()),
	} {
		b = binary.AppendUvarint(b, n)
	}
	return wire.Digest("top/meta/1", b)
}

// index is the tree of two addresses.
func index(at [][32]byte) top.ID {
	var leaves [2]top.ID
	for i := range at {
		leaves[i] = leaf("top/leaf/index/1", at[i], binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	bit := 0
	for at[0][bit/8] == at[1][bit/8] {
		bit += 8
	}
	bit += bits.LeadingZeros8(at[0][bit/8] ^ at[1][bit/8])
	if at[0][bit/8]>>(7-bit%8)&1 == 1 {
		leaves[0], leaves[1] = leaves[1], leaves[0]
	}
	b := binary.BigEndian.AppendUint16([]byte{2}, uint16(bit))
	return sha256.Sum256(append(append(b, leaves[0][:]...), leaves[1][:]...))
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
