package vpn

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// TestARoamingClientGoesOn changes the client's address in the middle of a page, again and
// again: the page comes whole on one connection, in one session, and the bill is that of
// its bytes. What is under way to the old address is lost, at most the window, which is a
// quarter of what was paid: two moves lose no more than an exit believes (lossFree).
func TestARoamingClientGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	f := x.line()
	alice.up(via(x))
	alice.fetched(s, 300_000)
	before := alice.meters()[0]
	const n = 6 << 20
	q, err := http.NewRequestWithContext(t.Context(), "GET", s.bytes(n), nil)
	must(t, err)
	r, err := alice.web().Do(q)
	must(t, err)
	defer r.Body.Close()
	have, next := 0, 2<<20
	for b := make([]byte, 32<<10); ; {
		k, err := r.Body.Read(b)
		if have += k; have >= next {
			f.roams()
			next += 2 << 20
		}
		if err != nil {
			if err != io.EOF {
				t.Errorf("after %d bytes: %v", have, err)
			}
			break
		}
	}
	if have != n {
		t.Errorf("%d of %d bytes", have, n)
	}
	w.until("both ends agree", func() bool { return total(alice.meters()).Units == total(x.meters()).Units })
	now := alice.meters()
	if len(now) != 1 || now[0].Session != before.Session || len(x.meters()) != 1 {
		t.Errorf("another session: %+v", now)
	}
	if got := uint64(now[0].Acknowledged - before.Acknowledged); got < n || float64(got) > 1.1*n {
		t.Errorf("%d bytes are paid for a page of %d", got, n)
	}
}

// TestWSSCarriesPages brings tunnels up by a TLS websocket, fetches pages at once and one
// after the other, from the first moment on, and takes none longer than it may.
func TestWSSCarriesPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := w.sell("exit", func(c *ExitConfig) { c.Hidden = Hidden{Listen: "127.0.0.1:0", WSS: true} })
	w.set(func() {
		n := w.nodes[x.id()]
		n.Addrs = x.exit.addresses()
		w.nodes[x.id()] = n
	})
	s, alice := newSite(t), w.member("alice")
	for range 4 {
		alice.up(via(x), func(c *ClientConfig) { c.Carry = WSS })
		const at = 3
		done := make(chan error, at)
		for range at {
			go func() {
				_, err := alice.get(s.bytes(1 << 20))
				done <- err
			}()
		}
		for range at {
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(wait):
				t.Fatalf("a page stands still: %+v", alice.status())
			}
		}
		alice.fetched(s, 2<<20)
		must(t, alice.stop())
	}
}
