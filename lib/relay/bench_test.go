package relay

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/api"
	"top/lib/envelope"
	"top/lib/top"
)

// deliver sends a body until it is delivered.
func (m *member) deliver(to *member, id string, lines bool, body io.Reader) {
	m.w.t.Helper()
	var last api.Message
	must(m.w.t, m.api.Send(m.w.t.Context(), api.SendRequest{ID: id, To: to.address(), Lines: lines, Wait: "delivered"}, body, func(r api.Message) error {
		last = r
		return nil
	}))
	if last.State != "delivered" {
		m.w.t.Fatalf("%s is %s: %s", id, last.State, last.Error)
	}
}

// A file from one agent's disk through a relay to another's, with all three in one
// process.
func BenchmarkFile(b *testing.B) {
	w := newWorld(b)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.knows(alice)
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<16)
	alice.deliver(bob, "first", false, bytes.NewReader(body))
	b.SetBytes(int64(len(body)))
	n := 0
	for b.Loop() {
		n++
		alice.deliver(bob, fmt.Sprintf("file-%d", n), false, bytes.NewReader(body))
	}
}

// Small messages, each sealed, signed, stored, acknowledged and paid: per message.
func BenchmarkLines(b *testing.B) {
	w := newWorld(b)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.knows(alice)
	const lines = 20_000
	body := strings.Repeat("a message of forty bytes, more or less..\n", lines)
	alice.deliver(bob, "first", true, strings.NewReader(body))
	n := 0
	for b.Loop() {
		n++
		alice.deliver(bob, fmt.Sprintf("lines-%d", n), true, strings.NewReader(body))
	}
	b.ReportMetric(float64(n)*lines/b.Elapsed().Seconds(), "messages/s")
}

// One message after the other, from the request to the recipient's signed word
// that it is there.
func BenchmarkMessage(b *testing.B) {
	w := newWorld(b)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.knows(alice)
	alice.deliver(bob, "first", false, strings.NewReader("hello"))
	var took []time.Duration
	for b.Loop() {
		at := time.Now()
		alice.deliver(bob, fmt.Sprintf("m-%d", len(took)), false, strings.NewReader("hello"))
		took = append(took, time.Since(at))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "ms-p95")
}

// A relay that holds 100 messages for each of 10,000 people who are offline: how
// long it takes to start, and its memory once it has looked at every mailbox.
func BenchmarkMailboxes(b *testing.B) {
	const people, each = 10_000, 100
	w := newWorld(b)
	r := w.relay("r")
	bob := w.user("bob", r)
	bob.stop()
	record := *bob.d.agent.mailbox()
	fill(b, r, record, people, each)
	r.stop()
	runtime.GC()
	before := resident(b)
	for b.Loop() {
		at := time.Now()
		r.start()
		b.ReportMetric(float64(time.Since(at).Milliseconds()), "ms-to-start")
		p := r.d.provider
		p.mu.Lock()
		for i := range uint64(people) {
			box, err := p.box(person(i))
			if err != nil || box == nil || box.state.Next != each+1 {
				b.Fatalf("mailbox %d: %+v, %v", i, box, err)
			}
		}
		p.mu.Unlock()
		b.ReportMetric(float64(resident(b)-before)/(1<<20), "MiB")
		r.stop()
	}
}

func person(i uint64) (a top.Address) {
	copy(a[:], u64(i))
	a[31] = 1
	return a
}

// fill puts messages for many people into a relay's store.
func fill(b *testing.B, r *member, record envelope.Mailbox, people, each int) {
	b.Helper()
	db := r.d.db
	head := envelope.Header{Chain: r.w.chain, Channel: top.ID{1}, Count: 1, Expiry: uint64(time.Now().Add(24 * time.Hour).Unix())}
	sealed := make([]byte, 1024)
	for i := range uint64(people) {
		w := db.db.NewBatch()
		to := person(i)
		record.Account = to
		must(b, w.Set(key('M', to[:]), record.Encode(), nil))
		for n := range uint64(each) {
			head.Recipient, head.From, head.To = to, top.Amount(n*1000), top.Amount(n*1000+1000)
			head.ID = top.ID(append(u64(i), append(u64(n), make([]byte, 16)...)...))
			rand.Read(sealed)
			m := &parcel{seq: n + 1, head: head, sealed: sealed, size: len(sealed)}
			v, _ := m.encode()
			must(b, w.Set(m.key(), v, nil))
			must(b, w.Set(key('X', u64(head.Expiry), to[:], u64(n+1)), nil, nil))
		}
		must(b, save(w, key('B', to[:]), boxState{First: 1, Next: uint64(each) + 1, Bytes: uint64(each) * 1024, Cursors: map[string]uint64{}}))
		must(b, w.Commit(pebble.NoSync))
		w.Close()
	}
}

// resident is how much memory this process has, in bytes.
func resident(b *testing.B) int64 {
	b.Helper()
	debug.FreeOSMemory()
	raw, err := os.ReadFile("/proc/self/statm")
	must(b, err)
	var size, pages int64
	if _, err := fmt.Sscan(string(raw), &size, &pages); err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
