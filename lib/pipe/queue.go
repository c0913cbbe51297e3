package pipe

import (
	"context"
	"sync"

	"top/lib/top"
)

// A Gap says how many records a slow reader lost; it may resume with since.
type Gap struct {
	Type string    `json:"type"` // "gap"
	Lost top.Count `json:"lost"`
}

// A Queue holds the records that one reader has not taken yet.
type Queue struct {
	mu    sync.Mutex
	recs  []any
	lost  uint64
	limit int
	wake  chan struct{} // holds one: something came
}

// NewQueue makes a Queue of at most limit records.
func NewQueue(limit int) *Queue { return &Queue{limit: limit, wake: make(chan struct{}, 1)} }

// Put adds a record, or counts it as lost when the queue is full. From the first
// that is lost on all are, until the reader was told: a record put after the loss
// would come before the Gap, and who resumes since then would never see what was
// lost. It never blocks.
func (q *Queue) Put(rec any) {
	q.mu.Lock()
	if q.lost > 0 || len(q.recs) >= q.limit {
		q.lost++
	} else {
		q.recs = append(q.recs, rec)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Next waits for a record. When some were lost, it gives what was kept before
// the loss, then a Gap. One reader may wait at a time.
func (q *Queue) Next(ctx context.Context) (any, error) {
	for {
		q.mu.Lock()
		if len(q.recs) > 0 {
			rec := q.recs[0]
			q.recs[0] = nil
			q.recs = q.recs[1:]
			q.mu.Unlock()
			return rec, nil
		}
		if lost := q.lost; lost > 0 {
			q.lost = 0
			q.mu.Unlock()
			return Gap{"gap", top.Count(lost)}, nil
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
