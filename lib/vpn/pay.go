package vpn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/api"
	"top/lib/session"
	"top/lib/top"
)

// A purse pays for one tunnel: channels one after the other, on each a session.
type purse struct {
	c   *Client
	t   *tunnel
	hop int // 0 is the entry

	mu      sync.Mutex
	ch      channelState
	payer   *session.Payer
	p       *paying
	exitUp  uint64 // bytes that the exit has of ours, as it says
	sent    uint64 // bytes that the exit said it had sent, and what of them had come
	got     uint64
	units   uint64 // acknowledged
	step    uint64 // of them by the newest tick
	asked   uint64 // bytes sent, from which the exit is asked what it has of them
	ticked  uint64 // of them paid, as the exit says
	before  top.Amount
	why     string    // why the exit serves no more
	problem string    // why no voucher is signed
	refusal string    // why the exit does not take one
	shown   time.Time // when the voucher that waits was last sent
	wrote   time.Time // when the channel was last written, by who signs
	flushed time.Time
	begged  time.Time // when the exit was last asked what it has of ours
	still   standstill
	over    bool
	moves   bool                   // another session is being opened: the exit ends this one
	earlier map[top.SessionID]bool // of a process before this one: their receipts are asked for

	paid chan struct{} // ticks went out: a voucher may be due
}

const (
	tickEvery    = 250 * time.Millisecond // what is not ticked yet is, when the traffic is thin
	resendAfter  = 300 * time.Millisecond
	receiptEvery = 10 * time.Second
	receiptQuiet = time.Second
	pingEvery    = time.Second
	deadAfter    = 4 * time.Second // without an answer to four pings
	stepLeast    = unit
	begEvery     = 20 * time.Millisecond // while packets wait for the exit to carry more
	renewAt      = 640                   // ticks: what the exit carried and did not see ticked yet, and the signing, must fit in the rest of an anchor
	renewLeast   = 96
	tickUnits    = 64 // ticked at least: at 2 Gbit/s an anchor of 1,023 units lasts a quarter of a second, and its renewal has half of that
)

// begin opens a session on a channel with room, and returns when the exit carries.
func (w *purse) begin(ctx context.Context) error {
	w.moving(true)
	defer w.moving(false)
	w.settle()
	ch, err := w.c.channel(ctx, w.t.to, top.ID{})
	if err != nil {
		return err
	}
	var claims []session.Claim
	for range 2 {
		within := w.c.bounded(ch)
		payer := session.NewPayer(session.PayerConfig{
			Chain: w.c.chain, Channel: ch.Channel, Payer: ch.Payer, Node: w.t.to.node, Cap: within.Cap, Expiry: ch.Expiry,
			Draw: draw, Paid: ch.Paid, After: ch.Seq, Renew: renewAfter(time.Duration(w.t.rtt.Load())),
		})
		if err := payer.Recover(claims...); err != nil {
			return fmt.Errorf("exit %s shows what we did not sign: %w", w.t.to.name, err)
		}
		p := newPaying()
		a, err := w.open(ctx, payer, p)
		if err != nil {
			return err
		}
		if claims == nil && len(a.Claims) > 0 { // the channel was used before: begin again after what that came to
			if ch, err = after(ch, a.Claims); err != nil {
				return err
			}
			claims = a.Claims
			continue
		}
		return w.start(ctx, within, payer, p, a)
	}
	return top.Errorf(top.Failed, "exit %s shows nothing that another session could follow", w.t.to.name)
}

// moving says whether another session is being opened. The exit ends the one before when
// it accepts it, and may say so before we have its answer.
func (w *purse) moving(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moves = yes
}

// ackedLocked is the bytes that are acknowledged.
func (w *purse) ackedLocked() uint64 {
	return w.ch.Rest + min(w.p.sent.Load(), w.exitUp) + w.p.got.Load()
}

func newPaying() *paying {
	p := &paying{}
	rand.Read(p.id[:])
	return p
}

// firstCredit is what every exit carries before the first tick: four units.
const firstCredit = 4 * unit

// open has the ticket of a new session signed by both ends.
func (w *purse) open(ctx context.Context, payer *session.Payer, p *paying) (a accepted, err error) {
	ticket, err := payer.Begin(w.t.now(), p.id, w.t.to.offer)
	if err != nil {
		return a, err
	}
	signed, err := w.c.cfg.Wallet.SignTicket(ctx, api.SignRequest{Service: Service, Peer: w.t.to.node, Body: ticket.Encode()})
	if err != nil {
		return a, err
	}
	return w.t.open(ctx, opening{Ticket: signed.Body}, payer.Check)
}

// start promises the first anchor, and lets packets through.
func (w *purse) start(ctx context.Context, ch channelState, payer *session.Payer, p *paying, a accepted) error {
	w.mu.Lock()
	w.before += w.spentLocked()
	w.ch, w.payer, w.p = ch, payer, p
	w.exitUp, w.sent, w.got, w.units, w.ticked, w.why, w.over = 0, 0, 0, 0, 0, "", false
	w.still = standstill{}
	w.step, w.asked, w.earlier = 0, unit, earlierOf(a.Claims, w.earlier)
	w.mu.Unlock()
	w.t.mu.Lock()
	w.t.terms = a
	w.t.mu.Unlock()
	if old := w.t.cur.Load(); old != nil { // the exit counts for the new one since it accepted it
		w.t.cur.Store(p)
		p.gate.follow(&old.gate)
	}
	if err := w.renew(ctx); err != nil {
		return err
	}
	w.t.cur.Store(p)
	w.t.release(p, p.gate.raise(firstCredit))
	w.askReceipts(false)
	return nil
}

func draw() (b [32]byte) {
	rand.Read(b[:])
	return b
}

// renew signs the voucher that is due, shows it, and waits until the exit took it.
func (w *purse) renew(ctx context.Context) error {
	if err := w.sign(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	for {
		w.mu.Lock()
		_, waits := w.payer.Waiting()
		refusal := w.refusal
		w.mu.Unlock()
		switch {
		case !waits:
			return nil
		case refusal != "":
			return top.Errorf(top.Denied, "exit %s: %s", w.t.to.name, refusal)
		}
		w.show()
		if !pause(ctx, 10*time.Millisecond) {
			return top.Errorf(top.Offline, "exit %s does not take a voucher", w.t.to.name)
		}
	}
}

const askWait = 10 * time.Second

// sign has the voucher that is due signed by the wallet. Ticks go on meanwhile.
func (w *purse) sign(ctx context.Context) error {
	w.mu.Lock()
	payer, ch, spent := w.payer, w.ch, w.spentLocked()
	now := w.t.now()
	r, due, err := payer.Renew(now)
	if old, waits := payer.Waiting(); !due && err == nil && waits && old.Voucher.Sig == [64]byte{} {
		r, due = old, true // the wallet did not answer the last time
	}
	w.mu.Unlock()
	if !due || err != nil {
		return err
	}
	ch.Seq, ch.Spent = r.Voucher.Seq, max(ch.Paid, ch.Spent)+spent
	if err := w.c.remember(ch, now.Sub(w.wrote) >= rememberEvery); err != nil {
		return err
	}
	if now.Sub(w.wrote) >= rememberEvery {
		w.wrote = now
	}
	signed, err := w.c.cfg.Wallet.SignVoucher(ctx, api.SignRequest{Service: Service, Peer: w.t.to.node, Body: r.Voucher.Encode()})
	if err != nil {
		return err
	}
	var v session.Voucher
	if err := v.Decode(signed.Body); err != nil {
		return err
	}
	w.mu.Lock()
	err = payer.Signed(v)
	w.shown = time.Time{}
	w.mu.Unlock()
	if err == nil {
		w.show()
	}
	return err
}

// show sends the voucher that waits, again when it is time.
func (w *purse) show() {
	w.mu.Lock()
	if w.payer == nil {
		w.mu.Unlock()
		return
	}
	r, waits := w.payer.Waiting()
	now := w.t.now()
	if !waits || r.Voucher.Sig == [64]byte{} || now.Sub(w.shown) < max(resendAfter, 2*time.Duration(w.t.rtt.Load())) {
		w.mu.Unlock()
		return
	}
	w.shown = now
	id := w.p.id
	w.mu.Unlock()
	w.t.say(told{mVoucher, id, r.Encode()}.encode())
}

// run pays until ctx ends or the exit is gone: then the error says why. ready is
// called once, when the exit carries.
func (w *purse) run(ctx context.Context, ready func()) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.listen(ctx) })
	g.Go(func() error {
		opening, cancel := context.WithTimeout(ctx, openWait)
		defer cancel()
		if err := w.begin(opening); err != nil {
			return err
		}
		ready()
		g.Go(func() error { return w.ahead(ctx) })
		return w.promise(ctx)
	})
	return g.Wait()
}

const openWait = 45 * time.Second // a channel may have to be opened on the chain first

// listen takes what the exit says, ticks, and notices when it says nothing any more.
func (w *purse) listen(ctx context.Context) error {
	beat := time.NewTicker(50 * time.Millisecond)
	defer beat.Stop()
	pinged, began := time.Time{}, w.t.now()
	receipts := asking{asked: began}
	var carried flowing
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b := <-w.t.words:
			w.heard(b)
		case <-w.t.moved:
			w.tick(false)
		case <-beat.C:
			now := w.t.now()
			if now.Sub(pinged) >= pingEvery {
				pinged = now
				w.t.ping(w.id())
			}
			if receipts.due(now, w.paidFor()) {
				w.askReceipts(true)
			}
			if now.Sub(began) > deadAfter && w.t.silent() > deadAfter {
				return top.Errorf(top.Offline, "exit %s has not answered for %s", w.t.to.name, deadAfter)
			}
			w.tick(w.flushDue(now))
			w.show()
			if err := w.stands(&carried, now); err != nil && w.c.choice() {
				return err
			}
		}
		if over, why := w.ended(); over {
			return top.Errorf(top.Offline, "exit %s ended the session: %s", w.t.to.name, why)
		}
	}
}

// promise has vouchers signed as they fall due, and goes on to another channel when
// one is used up.
func (w *purse) promise(ctx context.Context) error {
	for wait := promiseEvery; w.ticks(ctx, wait); {
		wait = promiseEvery
		err, still := w.sign(ctx), false
		switch {
		case w.usedUp(): // before its last unit: one that is never full is never acknowledged
			if err = w.next(ctx); err == nil {
				w.c.goesWell(w.t.to.node)
			}
		case err == nil && w.standsStill(w.t.now()):
			err, still = w.again(ctx), true
		}
		switch {
		case err == nil:
			w.trouble(nil)
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, top.ErrOffline) || errors.Is(err, top.ErrTimeout) || errors.Is(err, top.ErrBusy) || errors.Is(err, top.ErrDenied):
			if !still {
				err = unsigned(err)
			}
			w.trouble(err) // what is signed pays on; it may be mended meanwhile
			wait = time.Second
		default:
			return err
		}
	}
	return ctx.Err()
}

// next goes on to another channel; when that takes long the status says so meanwhile.
func (w *purse) next(ctx context.Context) error {
	late := time.AfterFunc(nextLate, func() {
		w.trouble(unsigned(top.Errorf(top.Busy, "%s (does the chain go on? top-chain status)", notOpen)))
	})
	defer late.Stop()
	if err := w.begin(ctx); err != nil {
		return fmt.Errorf("%s: %w", notOpen, err)
	}
	return nil
}

const (
	nextLate = 2 * time.Second
	notOpen  = "the channel is used up, and the next one is not open yet"
)

const promiseEvery = 20 * time.Millisecond

// usedUp says whether the channel can promise no more.
func (w *purse) usedUp() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	left, ok := w.leftLocked()
	return !ok || left < firstCredit/unit*w.t.to.offer.Price
}

// leftLocked is what the channel may still pay.
func (w *purse) leftLocked() (top.Amount, bool) {
	return w.ch.Cap.Sub(max(w.ch.Paid, w.ch.Spent) + w.spentLocked())
}

// trouble notes what keeps the payer from going on.
func (w *purse) trouble(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problem = ""
	if err != nil {
		w.problem = err.Error()
	}
}

func unsigned(err error) error {
	return fmt.Errorf("no voucher is signed: %w; what is signed pays for a little more", err)
}

func (w *purse) id() top.SessionID {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.p == nil {
		return top.SessionID{}
	}
	return w.p.id
}

func (w *purse) flushDue(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return now.Sub(w.flushed) >= tickEvery
}

func (w *purse) ended() (bool, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over && !w.moves, w.why
}

// tick acknowledges what came and what the exit has; all of it, however little, when
// flush says so.
func (w *purse) tick(flush bool) {
	w.mu.Lock()
	if w.p == nil {
		w.mu.Unlock()
		return
	}
	got, sent := w.p.got.Load(), w.p.sent.Load()
	units := w.ackedLocked() / unit
	t, due := w.payer.Served(w.p.id, units)
	step := tickAfter(units, time.Duration(w.t.least.Load()))
	if !due && (flush || units >= w.units+step) {
		t, due = w.payer.Flush(w.p.id)
	}
	if due {
		w.step, w.units = units-min(units, w.units), units
	}
	w.p.due.Store(got + max(stepLeast, (w.step-min(w.step, units-min(units, w.units)))*unit/2))
	now := w.t.now()
	asks := sent >= w.asked || w.p.gate.some.Load() && now.Sub(w.begged) >= begEvery // else the exit says what it has of it at its beat alone
	if asks {
		w.begged = now
	}
	if asks || due { // a tick asks, too
		w.asked = sent + min(max(sent/16, unit), max(step/2, 1)*unit)
		w.p.ask.Store(w.asked)
	}
	m := ticking{Session: w.p.id, Up: sent, Sent: w.sent, Got: min(w.got, w.sent)}
	if due {
		m.Ticks = []session.Tick{t}
	}
	stuck := flush && w.ticked < units // a tick may be lost
	if flush {
		w.flushed = now
	}
	if stuck {
		m.Ticks = w.payer.Repeat()
	}
	lost := flush && w.sent >= w.got+unit // the exit may wait for what did not come
	w.mu.Unlock()
	if due || asks || lost || len(m.Ticks) > 0 {
		w.t.say(m.encode())
	}
	if due {
		select {
		case w.paid <- struct{}{}:
		default:
		}
	}
}

// tickAfter is how many units make a tick due, after so many. A byte takes from the
// window for two round trips, until the exit says that it has it and then that it is
// paid, and what waits for a tick takes from it too. On a long line that is kept small:
// a sixteenth of the window while that grows, a sixty-fourth of the largest.
func tickAfter(units uint64, rtt time.Duration) uint64 {
	if rtt < longLine {
		return tickUnits
	}
	return max(1, min(units/64, tickUnits/4))
}

// longLine is the round trip from which a line is long: on a shorter one the largest
// window lasts for ten of them at 2 Gbit/s.
const longLine = 25 * time.Millisecond

// spentLocked is what this session was paid, with what is acknowledged and not ticked.
func (w *purse) spentLocked() top.Amount {
	if w.p == nil {
		return 0
	}
	all, ok := w.t.to.offer.Price.Mul(w.ackedLocked() / unit)
	if !ok {
		return top.MaxSupply
	}
	return all
}

// spent is what this tunnel was paid since it was made.
func (w *purse) spent() top.Amount {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.before + w.spentLocked()
}
