package vpn

import "testing"

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
