package chain

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/cometbft/cometbft/p2p"
	protomem "github.com/cometbft/cometbft/proto/tendermint/mempool"

	"top/lib/ledger"
	"top/lib/pool"
	"top/lib/top"
)

// A stream says of each transaction once whether it was taken, and once more when it
// is final, whatever is wrong with those beside it.
func TestAStreamTellsOfEach(t *testing.T) {
	n := newNetwork(t, 1)
	r := n.start(0)
	r.reach(t, 1)
	done := n.pay(0, 1, someone(1), top.One)
	s, err := r.api.TxStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	edit := func(raw []byte, f func(*ledger.Tx)) []byte {
		tx, err := ledger.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		f(tx)
		if err := tx.Sign(n.rich.Signer()); err != nil {
			t.Fatal(err)
		}
		return tx.Encode()
	}
	unsigned := n.transfer(9, someone(1), top.One)
	unsigned[len(unsigned)-40] ^= 1
	good := n.transfer(2, someone(2), top.One)
	all := []struct {
		raw  []byte
		err  error
		code int // -1: never final
	}{
		{good, nil, 0},
		{good, nil, 0}, // the same again, while it waits
		{done.Raw, top.ErrDenied, -1},
		{[]byte("garbage"), top.ErrInvalid, -1},
		{unsigned, top.ErrDenied, -1},
		{edit(good, func(x *ledger.Tx) { x.Chain[0]++ }), top.ErrDenied, -1},
		{edit(good, func(x *ledger.Tx) { x.Nonce, x.Expiry = 5, 1 }), top.ErrDenied, -1},
		{edit(good, func(x *ledger.Tx) { x.From = 77 }), top.ErrNotFound, -1},
		{n.transfer(3, someone(2), 2_000_000*top.One), nil, top.Denied.Exit()}, // an overspend fails alone
		{n.transfer(4, someone(2), top.One), nil, 0},
	}
	for _, c := range all {
		if err := s.Send(c.raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.End(); err != nil {
		t.Fatal(err)
	}
	taken, final := map[uint64]error{}, map[uint64]int{}
	for {
		vs, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range vs {
			_, was := taken[v.Seq]
			_, over := final[v.Seq]
			switch {
			case v.Height > 0 && was && !over:
				final[v.Seq] = int(v.Code)
			case v.Height == 0 && !was:
				taken[v.Seq] = v.Err
			default:
				t.Errorf("%d was told twice: %+v", v.Seq, v)
			}
		}
	}
	for i, c := range all {
		err, ok := taken[uint64(i)]
		if !ok || !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%d: taken %t: %v, want %v", i, ok, err, c.err)
		}
		if code, ok := final[uint64(i)]; ok != (c.code >= 0) || ok && code != c.code {
			t.Errorf("%d: final %t with code %d, want %d", i, ok, code, c.code)
		}
	}
}

// A caller who sends and never reads is not taken any further, and harms nobody.
func TestAStreamThatIsNotReadStops(t *testing.T) {
	v := newVerdicts()
	for i := range uint64(streamOwes / 2) {
		v.Taken(i, nil)
	}
	ctx, cancel := contextWith(t, 50*time.Millisecond)
	defer cancel()
	if err := v.room(ctx, 0); err == nil {
		t.Error("more is taken")
	}
	v.take()
	if err := v.room(t.Context(), 0); err != nil {
		t.Error(err)
	}
	v.close()
	v.Taken(1, nil)
	if b, _ := v.take(); len(b) != 0 {
		t.Error("verdicts are kept for who is gone")
	}
}

// fakePeer is a peer that notes what it is sent.
type fakePeer struct {
	p2p.Peer
	id  p2p.ID
	got chan []byte
}

func (p *fakePeer) ID() p2p.ID { return p.id }

func (p *fakePeer) Send(e p2p.Envelope) bool {
	p.got <- e.Message.(*protomem.Txs).Txs[0]
	return true
}

// fakeSwitch notes which peers were dropped.
type fakeSwitch struct {
	p2p.Switcher
	dropped chan p2p.ID
}

func (s *fakeSwitch) StopPeerForError(p p2p.Peer, _ any) { s.dropped <- p.ID() }

// gossips is a gossip over a pool that takes everything, with peers a and b.
type gossips struct {
	*gossip
	t       *testing.T
	a, b    *fakePeer
	dropped chan p2p.ID
	handed  chan []byte
}

func newGossips(t *testing.T, n *network) *gossips {
	t.Helper()
	x := &gossips{t: t, dropped: make(chan p2p.ID, 10), handed: make(chan []byte, 10)}
	p := pool.New(pool.Config{
		Chain: n.chain, Log: discard(),
		Admit:  func(all []ledger.Signed, _ []int) ([]error, error) { return make([]error, len(all)), nil },
		Hand:   func(b []byte) error { x.handed <- b; return nil },
		Spread: func(id top.ID, own bool) { x.spread(id, own) },
	})
	x.gossip = newGossip(p, discard())
	x.SetSwitch(&fakeSwitch{dropped: x.dropped})
	ctx, cancel := contextWith(t, time.Minute)
	ended := make(chan struct{})
	go func() {
		p.Run(ctx)
		close(ended)
	}()
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-ended
		x.Stop()
	})
	x.a, x.b = x.peer("a"), x.peer("b")
	return x
}

func (x *gossips) peer(id p2p.ID) *fakePeer {
	p := &fakePeer{id: id, got: make(chan []byte, 100)}
	x.AddPeer(p)
	return p
}

func (x *gossips) from(p *fakePeer, b []byte) {
	x.Receive(p2p.Envelope{Src: p, ChannelID: gossipChannel, Message: &protomem.Txs{Txs: [][]byte{b}}})
}

// next is the next message that a peer is sent.
func (x *gossips) next(p *fakePeer) []byte {
	x.t.Helper()
	select {
	case b := <-p.got:
		return b
	case <-time.After(10 * time.Second):
		x.t.Fatalf("%s is sent nothing", p.id)
		return nil
	}
}

func TestBundlesSpread(t *testing.T) {
	n := newNetwork(t, 1)
	x := newGossips(t, n)
	one, two, three := pack(n.transfer(1, someone(1), 1)), pack(n.transfer(2, someone(1), 1)), pack(n.transfer(3, someone(1), 1))
	// One that a peer has is asked for when it does not come by itself.
	x.from(x.a, encodeIDs(gossipHave, []top.ID{ledger.BundleID(one)}))
	if b := x.next(x.a); !bytes.Equal(b, encodeIDs(gossipWant, []top.ID{ledger.BundleID(one)})) {
		t.Fatalf("a is sent %x", b)
	}
	x.from(x.a, append([]byte{gossipBundle}, one...))
	if !bytes.Equal(<-x.handed, one) {
		t.Error("another bundle was handed over")
	}
	// The others are told, and get it when they want it.
	if b := x.next(x.b); !bytes.Equal(b, encodeIDs(gossipHave, []top.ID{ledger.BundleID(one)})) {
		t.Fatalf("b is sent %x", b)
	}
	x.from(x.b, encodeIDs(gossipWant, []top.ID{ledger.BundleID(one), {7}}))
	if b := x.next(x.b); !bytes.Equal(b, append([]byte{gossipBundle}, one...)) {
		t.Fatalf("b is sent %x", b[:9])
	}
	// Who has it already is not told of it, and what is known is not asked for.
	x.from(x.b, append([]byte{gossipBundle}, two...))
	<-x.handed
	if b := x.next(x.a); !bytes.Equal(b, encodeIDs(gossipHave, []top.ID{ledger.BundleID(two)})) {
		t.Fatalf("a is sent %x", b)
	}
	x.from(x.b, encodeIDs(gossipHave, []top.ID{ledger.BundleID(one), ledger.BundleID(two)}))
	// A new peer is told of all.
	c := x.peer("c")
	want := encodeIDs(gossipHave, []top.ID{ledger.BundleID(one), ledger.BundleID(two)})
	got := x.next(c)
	for len(got) < len(want) {
		more, err := decodeIDs(x.next(c)[1:])
		old, err2 := decodeIDs(got[1:])
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		got = encodeIDs(gossipHave, slices.Concat(old, more))
	}
	if !bytes.Equal(got, want) {
		t.Errorf("c is told %x", got)
	}
	// What was made here goes to everybody, whole.
	s, err := ledger.Read(n.transfer(4, someone(1), 1))
	if err != nil {
		t.Fatal(err)
	}
	told := make(taken, 1)
	x.pool.Add([]pool.Item{{Signed: s}}, told)
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	mine := append([]byte{gossipBundle}, <-x.handed...)
	for _, p := range []*fakePeer{x.a, x.b, c} {
		if b := x.next(p); !bytes.Equal(b, mine) {
			t.Errorf("%s is sent %x", p.id, b)
		}
	}
	// What was made here and is not final after a while is said again.
	late := ledger.BundleID(mine[1:])
	for _, p := range []*fakePeer{x.a, x.b, c} {
		if b := x.next(p); !bytes.Equal(b, encodeIDs(gossipHave, []top.ID{late})) {
			t.Errorf("%s is sent %x", p.id, b)
		}
	}
	// A peer that is gone is sent nothing more.
	x.RemovePeer(c, nil)
	for len(c.got) > 0 {
		<-c.got
	}
	x.from(x.a, append([]byte{gossipBundle}, three...))
	<-x.handed
	x.next(x.b)
	if len(c.got) != 0 || len(x.dropped) != 0 {
		t.Errorf("%d to who is gone, %d dropped", len(c.got), len(x.dropped))
	}
}

func TestDenyBadBundlesFromPeers(t *testing.T) {
	n := newNetwork(t, 1)
	raw := n.transfer(1, someone(1), 1)
	forged := bytes.Clone(raw)
	forged[len(forged)-40] ^= 1
	foreign := bytes.Clone(raw)
	foreign[0]++
	for name, b := range map[string][]byte{
		"an unknown message":      {9, 1, 2},
		"half a list":             encodeIDs(gossipHave, []top.ID{{1}, {2}})[:40],
		"too many":                encodeIDs(gossipWant, make([]top.ID, maxGossipIDs+1)),
		"nothing":                 {},
		"garbage as a bundle":     append([]byte{gossipBundle}, "garbage"...),
		"a wrong signature":       append([]byte{gossipBundle}, pack(raw, forged)...),
		"of another chain":        append([]byte{gossipBundle}, pack(foreign)...),
		"a bundle of nothing":     append([]byte{gossipBundle}, pack()...),
		"a bundle that is longer": append(append([]byte{gossipBundle}, pack(raw)...), 0),
	} {
		t.Run(name, func(t *testing.T) {
			x := newGossips(t, n)
			x.from(x.b, b)
			select {
			case id := <-x.dropped:
				if id != "b" {
					t.Errorf("%s was dropped", id)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the peer was not dropped")
			}
			if len(x.handed) != 0 {
				t.Error("it was handed over")
			}
		})
	}
}
