package relay

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"top/lib/top"
)

// snapshot is a relay's database as a crash now would leave it.
func (m *member) snapshot() (dir string) {
	m.w.t.Helper()
	dir = m.home.Path("snapshot")
	must(m.w.t, m.d.provider.commit())
	must(m.w.t, m.d.db.db.Checkpoint(dir))
	return dir
}

// crash starts a relay again with what a snapshot has.
func (m *member) crash(snapshot string) {
	m.w.t.Helper()
	m.stop()
	m.still.Store(0)
	db := m.home.Path("relay", "db")
	must(m.w.t, os.RemoveAll(db))
	must(m.w.t, os.Rename(snapshot, db))
	m.start()
	m.register()
}

// open is what was handed to somebody and not acknowledged, and how many messages
// linger.
func (m *member) open(to top.Address) (open top.Amount, linger int) {
	p := m.d.provider
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.carries {
		for _, l := range c.c.State().Lines {
			if l.Recipient == to {
				open += l.Handed - l.Acked
			}
		}
	}
	return open, len(p.work.parcels)
}

const (
	fullWindow = 4000 // of a channel that earned little: four units
	textCost   = 2000 // a unit, held for a day
)

// before is a relay that writes nothing more by its clock, with two users who have met.
func before(t *testing.T) (r, bob, alice *member) {
	w := newWorld(t)
	r = w.relay("r")
	bob, alice = w.user("bob", r), w.user("alice", r)
	bob.knows(alice)
	alice.sent(bob, "first", "text", "delivered")
	r.still.Store(time.Now().UnixNano())
	return r, bob, alice
}

// lingering sends so many messages that bob, whose intake is locked, does not take,
// and that the relay, whose clock stands, does not write.
func lingering(r, alice, bob *member, n int) {
	r.w.t.Helper()
	for i := range n {
		alice.sent(bob, fmt.Sprint("m", i), strings.Repeat("z", 40_000), "queued")
		r.until("lingering", func() bool {
			open, linger := r.open(bob.address())
			return linger == i+1 && open == min(fullWindow, top.Amount(i+1)*textCost)
		})
	}
}

// A relay that crashes after it passed on acknowledgements and before it wrote them
// gets none of those messages again: they do not fill the window for what follows.
func TestACrashLosesAcknowledgements(t *testing.T) {
	r, bob, alice := before(t)
	bob.d.agent.intake.Lock()
	lingering(r, alice, bob, 2)
	snapshot := r.snapshot()
	bob.d.agent.intake.Unlock()
	for i := range 2 {
		alice.sent(bob, fmt.Sprint("m", i), "", "delivered")
	}
	r.crash(snapshot)
	alice.sent(bob, "last", "text", "delivered")
	bob.inbox(4)
}

// A relay that crashes and gets again what its recipient has hears an
// acknowledgement of more than it was sent again by then: it is not lost.
func TestACrashLosesMessagesThatWereAcknowledged(t *testing.T) {
	r, bob, alice := before(t)
	snapshot := r.snapshot()
	bob.d.agent.intake.Lock()
	lingering(r, alice, bob, 4)
	alice.stop()
	bob.d.agent.intake.Unlock()
	bob.inbox(5)
	r.crash(snapshot)
	alice.start()
	for i := range 4 {
		alice.sent(bob, fmt.Sprint("m", i), "", "delivered")
	}
	alice.sent(bob, "last", "text", "delivered")
	bob.inbox(6)
}
