package billing

import (
	"math/rand/v2"
	"testing"

	"top/lib/keys"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
)

// A channelWorld is one channel as both ends live it, honestly, with all that
// they know: what the bill must come to.
type channelWorld struct {
	rng     *rand.Rand
	chain   top.ChainID
	id      top.ID
	payer   keys.Private
	node    keys.Private
	live    []*sessionWorld
	all     []*sessionWorld
	voucher session.Voucher
	settled top.Amount // in the voucher, for anchors that are gone
}

type sessionWorld struct {
	ticket session.Ticket
	anchor *session.HashChain
	tick   uint32 // on the anchor
	units  uint64 // in all
	log    receipt.Log
}

var services = []string{"cdn", "relay", "vpn"}

func newChannel(seed uint64) *channelWorld {
	w := &channelWorld{
		rng:   rand.New(rand.NewPCG(2, seed)),
		chain: top.ChainID{byte(seed % 2)},
		id:    top.ID{byte(seed), byte(seed >> 8)},
		payer: keys.FromSeed([32]byte{1, byte(seed % 3)}),
		node:  keys.FromSeed([32]byte{2, byte(seed % 4)}),
	}
	w.voucher = session.Voucher{Chain: w.chain, Channel: w.id}
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *channelWorld) seed() (s [32]byte) {
	for i := range s {
		s[i] = byte(w.rng.Uint32())
	}
	return s
}

// open begins a session of a random service and price.
func (w *channelWorld) open(t testing.TB) *sessionWorld {
	t.Helper()
	s := &sessionWorld{anchor: session.NewHashChain(w.seed(), 60)}
	id := w.seed()
	s.ticket = session.Ticket{
		Chain: w.chain, Channel: w.id, Session: top.SessionID(id[:16]), Payer: w.payer.Public(), Node: w.node.Public(),
		Service: services[w.rng.IntN(len(services))], Unit: "64KiB", Price: top.Amount(1 + w.rng.Uint64N(1000)),
		Root: s.anchor.Root(), N: s.anchor.N(), Expiry: 1_800_000_000,
	}
	must(t, s.ticket.SignPayer(w.payer.Signer()))
	must(t, s.ticket.SignNode(w.node.Signer()))
	w.live, w.all = append(w.live, s), append(w.all, s)
	w.renew(t)
	return s
}

// ticks pays n units of a live session, at most what its anchor has left.
func (w *channelWorld) ticks(t testing.TB, s *sessionWorld, n uint32) {
	t.Helper()
	n = min(n, s.anchor.N()-s.tick)
	s.tick += n
	s.units += uint64(n)
	must(t, s.log.Append(top.Amount(n)*s.ticket.Price, top.ID{byte(n)}))
}

// reanchor settles what a session ticked and gives it a new anchor.
func (w *channelWorld) reanchor(t testing.TB, s *sessionWorld) {
	t.Helper()
	w.settle(s)
	s.anchor = session.NewHashChain(w.seed(), 60)
	w.renew(t)
}

func (w *channelWorld) settle(s *sessionWorld) {
	w.settled += top.Amount(s.tick) * s.ticket.Price
	s.tick = 0
}

// close settles a session for good.
func (w *channelWorld) close(t testing.TB, i int) {
	t.Helper()
	w.settle(w.live[i])
	w.live = append(w.live[:i:i], w.live[i+1:]...)
	w.renew(t)
}

// renew signs the next voucher.
func (w *channelWorld) renew(t testing.TB) {
	t.Helper()
	w.voucher.Seq++
	w.voucher.Amount = w.settled
	w.voucher.Anchors = nil
	for _, s := range w.live {
		w.voucher.Anchors = append(w.voucher.Anchors, session.Anchor{
			Session: s.ticket.Session, Price: s.ticket.Price, Root: s.anchor.Root(), N: s.anchor.N(),
		})
	}
	must(t, w.voucher.Sign(w.payer.Signer()))
}

// receipt is a session's receipt as of now.
func (w *channelWorld) receipt(t testing.TB, s *sessionWorld) receipt.Receipt {
	t.Helper()
	r := receipt.Receipt{Ticket: s.ticket, Claim: session.Claim{Voucher: w.voucher}}
	for _, l := range w.live {
		tick := session.Tick{Session: l.ticket.Session, I: l.tick}
		if l.tick > 0 {
			tick.W = l.anchor.At(l.tick)
		}
		r.Claim.Ticks = append(r.Claim.Ticks, tick)
	}
	r.LogRoot, r.LogSum, r.LogCount = s.log.Root()
	must(t, r.Sign(w.node.Signer()))
	return r
}

// owed is what the channel comes to by now.
func (w *channelWorld) owed() (sum top.Amount) {
	for _, s := range w.all {
		sum += top.Amount(s.units) * s.ticket.Price
	}
	return sum
}

// step does something at random and gives a receipt if one was made.
func (w *channelWorld) step(t testing.TB) (receipt.Receipt, bool) {
	t.Helper()
	if len(w.live) == 0 || w.rng.IntN(12) == 0 && len(w.live) < session.MaxAnchors {
		w.open(t)
		return receipt.Receipt{}, false
	}
	i := w.rng.IntN(len(w.live))
	s := w.live[i]
	switch w.rng.IntN(10) {
	case 0:
		w.reanchor(t, s)
	case 1:
		w.close(t, i)
	case 2, 3:
		return w.receipt(t, w.all[w.rng.IntN(len(w.all))]), true
	default:
		w.ticks(t, s, 1+w.rng.Uint32N(8))
		if s.tick == s.anchor.N() {
			w.reanchor(t, s)
		}
	}
	return receipt.Receipt{}, false
}
