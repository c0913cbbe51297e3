package vpn

import (
	"sync"
	"sync/atomic"
)

// A shaper lets bytes pass up to a limit, and holds a bounded number beyond it until
// the limit is raised: billing in real time. It is safe for concurrent use.
type shaper struct {
	used    atomic.Uint64 // bytes that passed
	limit   atomic.Uint64
	dropped atomic.Uint64 // bytes that found no room
	some    atomic.Bool   // queue is not empty
	pool    *atomic.Int64 // bytes that wait in all shapers that share it; nil is this one alone

	mu    sync.Mutex
	queue [][]byte
	bytes int
	over  bool // nothing is held any more
}

// What waits for a tick is bounded, of one shaper and of all that share a pool. At 100
// Mbit/s maxHeld is a quarter of a second; in the second half of the pool a shaper has a
// sixteenth of it, so that some cannot take the room of the others.
const (
	maxHeld  = 4 << 20
	maxPool  = 256 << 20
	lateHeld = maxHeld / 16
)

// pass says whether n bytes may go now, and counts them.
func (s *shaper) pass(n uint64) bool {
	if s.some.Load() {
		return false // those that wait go first
	}
	return s.count(n)
}

func (s *shaper) count(n uint64) bool {
	if s.used.Add(n) <= s.limit.Load() {
		return true
	}
	s.used.Add(-n)
	return false
}

// hold keeps a copy of a packet for later; false when there is no room, or hold says
// that the limit was raised meanwhile: then it may pass after all.
func (s *shaper) hold(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.bytes+len(p) > maxHeld || !s.share(len(p)) {
		s.dropped.Add(uint64(len(p)))
		return
	}
	s.queue, s.bytes = append(s.queue, append([]byte{}, p...)), s.bytes+len(p)
	s.some.Store(true)
}

// share takes room of the pool. The caller holds the lock.
func (s *shaper) share(n int) bool {
	if s.pool == nil {
		return true
	}
	all := s.pool.Add(int64(n))
	if all <= maxPool/2 || all <= maxPool && s.bytes+n <= lateHeld {
		return true
	}
	s.pool.Add(-int64(n))
	return false
}

// giveBack returns room to the pool.
func (s *shaper) giveBack(n int) {
	if s.pool != nil {
		s.pool.Add(-int64(n))
	}
}

// raise moves the limit up and gives the packets that may go now. It never goes back.
func (s *shaper) raise(limit uint64) (free [][]byte) {
	for old := s.limit.Load(); limit > old && !s.limit.CompareAndSwap(old, limit); old = s.limit.Load() {
	}
	if !s.some.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 && s.count(uint64(len(s.queue[0]))) {
		s.bytes -= len(s.queue[0])
		s.giveBack(len(s.queue[0]))
		free, s.queue = append(free, s.queue[0]), s.queue[1:]
	}
	if len(s.queue) == 0 {
		s.queue = nil
		s.some.Store(false)
	}
	return free
}

// stop takes the credit away: nothing passes until raise.
func (s *shaper) stop() { s.limit.Store(0) }

// follow makes a shaper go on where another of the same pool ends: what waits there
// waits here, before what came here since.
func (s *shaper) follow(old *shaper) {
	old.stop()
	old.mu.Lock()
	queue, n := old.queue, old.bytes
	old.queue, old.bytes, old.over = nil, 0, true
	old.some.Store(true) // nothing passes by
	old.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue, s.bytes = append(queue, s.queue...), s.bytes+n
	s.some.Store(len(s.queue) > 0)
}

// shut ends it: what waits is dropped, and nothing waits or passes any more.
func (s *shaper) shut() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped.Add(uint64(s.bytes))
	s.giveBack(s.bytes)
	s.queue, s.bytes, s.over = nil, 0, true
}

// held is the bytes that wait.
func (s *shaper) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}
