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

	mu    sync.Mutex
	queue [][]byte
	bytes int
}

// maxHeld bounds what waits for a tick: at 100 Mbit/s a quarter of a second.
const maxHeld = 4 << 20

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
	if s.bytes+len(p) > maxHeld {
		s.dropped.Add(uint64(len(p)))
		return
	}
	s.queue, s.bytes = append(s.queue, append([]byte{}, p...)), s.bytes+len(p)
	s.some.Store(true)
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

// held is the bytes that wait.
func (s *shaper) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}
