package relay

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"top/lib/api"
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
	n := 0
	for b.Loop() {
		n++
		alice.deliver(bob, fmt.Sprintf("m-%d", n), false, strings.NewReader("hello"))
	}
}
