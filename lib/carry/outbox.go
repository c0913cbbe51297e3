package carry

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// An outbox holds what waits for the line, packed into parcels: whoever sends puts
// datagrams in, one writer takes all that is there.
type outbox struct {
	prefix byte // of each parcel, when prefixed
	framed int  // length of the prefix: 0 or 1
	pad    bool

	mu     sync.Mutex
	limit  int // of a parcel, prefix counted
	bytes  []byte
	spare  []byte // the writer's, of the last take
	marks  []mark
	marked []mark // the writer's
	closed bool

	ready chan struct{} // something was put
	room  chan struct{} // something was taken
	done  chan struct{} // closed

	counts counts
}

// A mark is the end of a parcel.
type mark struct {
	end, datagrams, size int
	at                   time.Time // of its first datagram
}

// counts are Stats while they grow.
type counts struct {
	sent, received, sentBytes, receivedBytes, full, stale, tooLong, unread, wire atomic.Uint64
}

func (c *counts) stats() Stats {
	return Stats{
		Sent: c.sent.Load(), Received: c.received.Load(), SentBytes: c.sentBytes.Load(), ReceivedBytes: c.receivedBytes.Load(),
		Full: c.full.Load(), Stale: c.stale.Load(), TooLong: c.tooLong.Load(), Unread: c.unread.Load(), Wire: c.wire.Load(),
	}
}

func newOutbox(limit int, pad bool, prefix ...byte) *outbox {
	o := &outbox{limit: limit, pad: pad, framed: len(prefix), ready: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{})}
	if o.framed > 0 {
		o.prefix = prefix[0]
	}
	return o
}

// put takes copies of datagrams, waits for room once at most, and drops what finds
// none (HC4).
func (o *outbox) put(bufs [][]byte) error {
	var timeout <-chan time.Time
	waited := false
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := 0; i < len(bufs); {
		if o.closed {
			return net.ErrClosed
		}
		if len(bufs[i]) > o.limit-o.framed-frameHead {
			o.counts.tooLong.Add(1)
			i++
			continue
		}
		if len(o.bytes)+len(bufs[i])+frameHead+o.framed <= queueSize {
			o.addLocked(bufs[i])
			i++
			continue
		}
		if waited {
			o.counts.full.Add(uint64(len(bufs) - i))
			return nil
		}
		if timeout == nil {
			timer := time.NewTimer(sendWait)
			defer timer.Stop()
			timeout = timer.C
		}
		o.mu.Unlock()
		select {
		case <-o.room:
		case <-o.done:
		case <-timeout:
			waited = true
		}
		o.mu.Lock()
	}
	signal(o.room) // another may wait for what is left of it
	return nil
}

// addLocked packs a datagram into the last parcel, or begins one.
func (o *outbox) addLocked(b []byte) {
	last := len(o.marks) - 1
	begin := 0
	if last > 0 {
		begin = o.marks[last-1].end
	}
	if last < 0 || o.marks[last].end-begin+frameHead+len(b) > o.limit {
		o.marks = append(o.marks, mark{at: time.Now()})
		last++
		if o.framed > 0 {
			o.bytes = append(o.bytes, o.prefix)
		}
	}
	o.bytes = appendFrame(o.bytes, b)
	o.marks[last].end = len(o.bytes)
	o.marks[last].datagrams++
	o.marks[last].size += len(b)
	signal(o.ready)
}

// run gives each parcel to write, which says whether it was sent, in order, until
// it fails or the outbox is closed. A parcel is valid until write returns.
func (o *outbox) run(write func(parcel []byte) (sent bool, err error)) error {
	var padded []byte
	for {
		select {
		case <-o.ready:
		case <-o.done:
			return net.ErrClosed
		}
		o.mu.Lock()
		bytes, marks, limit := o.bytes, o.marks, o.limit
		o.bytes, o.spare = o.spare[:0], bytes
		o.marks, o.marked = o.marked[:0], marks
		o.mu.Unlock()
		signal(o.room)
		begin := 0
		for _, m := range marks {
			parcel := bytes[begin:m.end]
			begin = m.end
			if time.Since(m.at) > staleWait {
				o.counts.stale.Add(uint64(m.datagrams))
				continue
			}
			if o.pad {
				padded = pad(append(padded[:0], parcel...), limit)
				parcel = padded
			}
			sent, err := write(parcel)
			if err != nil {
				return err
			}
			if !sent {
				o.counts.tooLong.Add(uint64(m.datagrams))
				continue
			}
			o.counts.sent.Add(uint64(m.datagrams))
			o.counts.sentBytes.Add(uint64(m.size))
			o.counts.wire.Add(uint64(len(parcel)))
		}
	}
}

// close ends put and run.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed = true
		close(o.done)
	}
}

// setLimit is for a path that turns out wider, or narrower.
func (o *outbox) setLimit(n int) {
	o.mu.Lock()
	o.limit = n
	o.mu.Unlock()
}

// signal leaves one token in a channel.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
