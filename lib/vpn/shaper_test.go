package vpn

import (
	"sync/atomic"
	"testing"
)

// TestWhatWaitsIsBounded holds packets for sessions beyond their credit: each and all
// together have a bound, who comes late still has room, and what is raised, or ends, gives
// its room back.
func TestWhatWaitsIsBounded(t *testing.T) {
	t.Parallel()
	var pool atomic.Int64
	all := make([]*shaper, maxPool/maxHeld+8)
	pkt := make([]byte, 32<<10)
	for i := range all {
		all[i] = &shaper{pool: &pool}
		for range maxHeld/len(pkt) + 4 {
			all[i].hold(pkt)
		}
		if n := all[i].held(); n > maxHeld || n < lateHeld/2 {
			t.Errorf("shaper %d holds %d bytes", i, n)
		}
	}
	sum := 0
	for _, s := range all {
		sum += s.held()
	}
	if int64(sum) != pool.Load() || sum > maxPool {
		t.Errorf("%d bytes are held, the pool says %d of %d", sum, pool.Load(), maxPool)
	}
	if n := all[0].dropped.Load(); n == 0 {
		t.Error("nothing was dropped")
	}
	if free := all[0].raise(1 << 40); len(free) != maxHeld/len(pkt) || all[0].held() != 0 {
		t.Errorf("%d packets may go, %d bytes wait still", len(free), all[0].held())
	}
	for _, s := range all {
		s.shut()
		s.hold(pkt)
		if s.held() != 0 || s.pass(1) && s != all[0] {
			t.Error("a session that is over holds packets, or lets them pass")
		}
	}
	if n := pool.Load(); n != 0 {
		t.Errorf("%d bytes never came back", n)
	}
}

// TestASessionThatEndsHoldsNothing takes what is beyond its credit, and leaves.
func TestASessionThatEndsHoldsNothing(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r := alice.ride(x)
	r.begun(r.channel(1 << 30))
	to := r.at4()
	down := make([]byte, 1200)
	down[0] = 0x45
	copy(down[16:20], to.AsSlice())
	for range 600 { // 256 KiB go, the rest waits
		x.exit.Out([][]byte{down}, []int{len(down)}, 0)
	}
	w.until("packets wait", func() bool { return x.exit.held.Load() > 100_000 })
	r.answers(told{mBye, r.id, nil}.encode(), mBye, nil)
	w.until("it is over", func() bool { return x.meters()[0].State == "over" })
	if n := x.exit.held.Load(); n != 0 || x.meters()[0].Held != 0 {
		t.Errorf("a session that is over holds %d bytes", n)
	}
}

// TestWhatWaitsGoesOnInTheNextSession: a session that takes over from another of the same
// client sends what waited there, first and whole, and TCP notices nothing.
func TestWhatWaitsGoesOnInTheNextSession(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r := alice.ride(x)
	r.begun(r.channel(1 << 30))
	to := r.at4()
	down := make([]byte, 1200)
	down[0] = 0x45
	copy(down[16:20], to.AsSlice())
	for range 300 { // 256 KiB go, the rest waits
		x.exit.Out([][]byte{down}, []int{len(down)}, 0)
	}
	w.until("packets wait", func() bool { return x.exit.held.Load() > 80_000 })
	waits := x.exit.held.Load()
	r.payer = nil
	r.begun(r.channel(1 << 30))
	// The voucher of the new session lets 256 KiB pass, which is more than waited.
	w.until("they went", func() bool { return x.exit.held.Load() == 0 })
	if m := r.stated(); int64(m.Down) != waits {
		t.Errorf("%d bytes waited, %d went in the next session", waits, m.Down)
	}
	for _, m := range x.meters() {
		if m.State != "over" && m.Session != r.id {
			t.Errorf("session %s is %s", m.Session, m.State)
		}
	}
}

func TestAShaperFollowsAnother(t *testing.T) {
	t.Parallel()
	var pool atomic.Int64
	old, next := &shaper{pool: &pool}, &shaper{pool: &pool}
	old.hold([]byte{1})
	old.hold([]byte{2, 2})
	next.hold([]byte{3})
	next.follow(old)
	old.hold([]byte{4}) // by who had no word of it
	if old.pass(0) || old.held() != 0 || next.held() != 4 || next.pass(0) || pool.Load() != 4 {
		t.Errorf("%d bytes wait at the old one, %d at the next, %d in all", old.held(), next.held(), pool.Load())
	}
	free := next.raise(3)
	if len(free) != 2 || free[0][0] != 1 || free[1][0] != 2 || next.held() != 1 {
		t.Errorf("%v go first", free)
	}
	if free = next.raise(4); len(free) != 1 || free[0][0] != 3 || !next.pass(0) || pool.Load() != 0 {
		t.Errorf("%v goes last, %d bytes are left", free, pool.Load())
	}
}
