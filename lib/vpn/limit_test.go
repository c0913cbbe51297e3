package vpn

import (
	"testing"
	"time"
)

// TestX1_TheLimitIsOfThisSession: bytes of a unit that the session before began are in the
// exit's count and not in the client's. Told as its own they would be sent in vain.
func TestX1_TheLimitIsOfThisSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	for range 3 {
		alice.up(via(x))
		alice.fetched(s, 40_000)
		w.until("as much room is told as there is", func() bool { // a packet may pass between two looks
			x.exit.mu.Lock()
			defer x.exit.mu.Unlock()
			for _, a := range x.exit.accounts {
				for _, v := range a.sessions {
					if m := v.state(0); !v.over && m.Limit-m.Up-m.Down != v.gate.limit.Load()+v.astray-v.gate.used.Load() {
						return false
					}
				}
			}
			return true
		})
		must(t, alice.stop())
		w.until("its session is over", func() bool { return x.status().Peers == 0 })
	}
}

// TestReceiptsAreAskedForWhenItIsQuiet, and from time to time; never for nothing new, and
// not at every pause.
func TestReceiptsAreAskedForWhenItIsQuiet(t *testing.T) {
	t.Parallel()
	began := time.Unix(1_800_000_000, 0)
	a := asking{asked: began}
	for _, c := range []struct {
		at   time.Duration
		paid uint64
		want bool
	}{
		{500 * time.Millisecond, 0, false}, {3 * time.Second, 0, false}, // nothing was paid
		{3500 * time.Millisecond, 5, false}, {4400 * time.Millisecond, 5, false}, {4500 * time.Millisecond, 5, true},
		{8 * time.Second, 5, false}, // it is there
		{8100 * time.Millisecond, 6, false}, {8900 * time.Millisecond, 7, false}, {9900 * time.Millisecond, 7, true},
		{10 * time.Second, 8, false}, {11100 * time.Millisecond, 8, false}, // asked a moment ago
		{11900 * time.Millisecond, 8, true},
		{13 * time.Second, 9, false}, {14 * time.Second, 9, true}, {24 * time.Second, 9, true},
	} {
		if got := a.due(began.Add(c.at), c.paid); got != c.want {
			t.Errorf("after %v, %d units: %v", c.at, c.paid, got)
		}
	}
	for at := 25 * time.Second; at < 34*time.Second; at += 50 * time.Millisecond {
		if a.due(began.Add(at), uint64(at)) {
			t.Errorf("%v: asked while it carries", at)
		}
	}
}
