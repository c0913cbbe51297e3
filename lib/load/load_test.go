package load

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/pipe"
	"top/lib/sock"
	"top/lib/top"
)

// node plays the socket of a node: each transaction is answered as answer says. Of those
// that failed every second was charged 7 nano.
func node(t *testing.T, answer func(seq uint64, s ledger.Signed) []api.Verdict) string {
	t.Helper()
	path := t.TempDir() + "/chain.sock"
	var mu sync.Mutex
	failed := map[string]top.Amount{}
	srv, err := sock.New(sock.Config{Name: "top-chain", Sock: path, Routes: []sock.Route{{
		Method: "GET", Path: "/v1/txs/{id}",
		Handle: func(c *sock.Call) error {
			mu.Lock()
			defer mu.Unlock()
			fee, ok := failed[c.Arg("id")]
			if !ok {
				return top.Errorf(top.NotFound, "nothing failed under %s", c.Arg("id"))
			}
			return c.JSON(api.Tx{Type: "tx", Message: "too old", Fee: fee})
		},
	}, {
		Method: "POST", Path: "/v1/txs/stream", Access: sock.Write, MaxBody: sock.Unlimited,
		Handle: func(c *sock.Call) error {
			out, err := c.Duplex("application/octet-stream")
			if err != nil {
				return err
			}
			for seq := uint64(0); ; seq++ {
				raw, err := pipe.ReadFrame(c.Body)
				if err != nil { // the end frame
					return errors.Join(pipe.EndFrames(out), out.Flush())
				}
				s, err := ledger.Read(raw)
				if err == nil {
					err = s.Verify()
				}
				if err != nil {
					return err
				}
				for _, v := range answer(seq, s) {
					if v.Code != 0 {
						mu.Lock()
						failed[s.ID.String()] = top.Amount(len(failed) % 2 * 7)
						mu.Unlock()
					}
					if err := errors.Join(pipe.WriteFrame(out, v.Append(nil)), out.Flush()); err != nil {
						return err
					}
				}
			}
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return path
}

func plan(sock string) Plan {
	return Plan{
		Sock: sock, Chain: top.ChainID{1}, Rate: Signed, PerSecond: 500, Duration: time.Second, Drain: 5 * time.Second,
		Batch: 1, First: 4, Accounts: 4, All: 8, Index: 10, Nonce: 3,
	}
}

func run(t *testing.T, p Plan) Result {
	t.Helper()
	d, err := NewDriver(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A chain that stands still does not make the driver offer less, and what waited for
// it took as long as it did.
func TestD1_TheLoopIsOpen(t *testing.T) {
	var mu sync.Mutex
	last := map[uint32]uint64{}
	r := run(t, plan(node(t, func(seq uint64, s ledger.Signed) []api.Verdict {
		if seq == 0 {
			<-time.After(400 * time.Millisecond) // the chain stands still
		}
		mu.Lock()
		defer mu.Unlock()
		if s.From < 14 || s.From > 17 || s.Nonce < 3 || s.Nonce <= last[s.From] {
			t.Errorf("account %d, nonce %d after %d", s.From, s.Nonce, last[s.From])
		}
		last[s.From] = s.Nonce
		return []api.Verdict{{Seq: seq}, {Seq: seq, Height: 9}}
	})))
	if r.Offered < 450 || r.Offered > 500 || r.Final != r.Offered {
		t.Errorf("%+v", r)
	}
	if p := r.Latency.Quantile(0.8); p < 100*time.Millisecond {
		t.Errorf("two fifths waited for the chain, the 80th percentile is %s", p)
	}
}

func TestD2_WhatWasOfferedIsAccountedFor(t *testing.T) {
	r := run(t, plan(node(t, func(seq uint64, _ ledger.Signed) []api.Verdict {
		switch seq % 5 {
		case 0:
			return []api.Verdict{{Seq: seq, Err: &top.Error{Kind: top.Busy, Message: "full"}}}
		case 1:
			return []api.Verdict{{Seq: seq, Err: &top.Error{Kind: top.Denied, Message: "poor"}}}
		case 2:
			return []api.Verdict{{Seq: seq}, {Seq: seq, Height: 4, Code: 4}}
		case 3:
			return []api.Verdict{{Seq: seq}} // lost
		}
		return []api.Verdict{{Seq: seq}, {Seq: seq, Height: 5}}
	})))
	n := r.Offered / 5
	if r.Busy < n || r.Denied < n || r.Failed < n || r.Taken-r.Final < n || r.Offered != r.Busy+r.Denied+r.Taken || r.Reason != "too old" || r.Last != 5 {
		t.Errorf("%+v", r)
	}
	sum := Second{}
	for _, s := range r.Seconds {
		sum.Offered += s.Offered
		sum.Taken += s.Taken
		sum.Final += s.Final
	}
	if sum != (Second{r.Offered, r.Taken, r.Final}) {
		t.Errorf("the seconds add up to %+v of %+v", sum, r)
	}
}

// What a driver pays stays among its accounts but for the fees, whose bytes are
// counted as they were sent.
func TestD3_TheBytesAreThoseSent(t *testing.T) {
	for _, rate := range []string{Signed, Batched} {
		bytes := uint64(0)
		p := plan(node(t, func(seq uint64, s ledger.Signed) []api.Verdict {
			bytes += uint64(len(s.Raw))
			switch b := s.Body.(type) {
			case *ledger.Transfer:
				if b.To.Index < 14 || b.To.Index > 17 || b.To.Index == s.From {
					t.Errorf("account %d pays %d", s.From, b.To.Index)
				}
			case *ledger.Batch:
				if len(b.Records) != 50 || b.Records[7].Index < 10 || b.Records[7].Index > 17 {
					t.Errorf("%+v", b)
				}
			}
			return []api.Verdict{{Seq: seq}, {Seq: seq, Height: 9}}
		}))
		p.Rate, p.Batch, p.Presign = rate, 50, rate == Batched
		if r := run(t, p); r.Bytes != bytes || r.Final == 0 {
			t.Errorf("%s: %d bytes sent, %+v", rate, bytes, r)
		}
	}
}

// A verdict does not say what a transaction paid that failed: the chain is asked for each
// by the name of the very bytes that were sent, signed before or within.
func TestD3_TheChainSaysWhatTheFailedPaid(t *testing.T) {
	for _, presign := range []bool{false, true} {
		bytes := uint64(0)
		p := plan(node(t, func(seq uint64, s ledger.Signed) []api.Verdict {
			if seq%3 == 0 {
				return []api.Verdict{{Seq: seq}, {Seq: seq, Height: 4, Code: 4}}
			}
			bytes += uint64(len(s.Raw))
			return []api.Verdict{{Seq: seq}, {Seq: seq, Height: 5}}
		}))
		p.Presign = presign
		if r := run(t, p); r.Failed < 100 || r.Charged != top.Amount(r.Failed/2*7) || r.Bytes != bytes || r.Reason != "too old" {
			t.Errorf("%d bytes carried out, %+v", bytes, r)
		}
	}
}

func TestPlansThatAreNone(t *testing.T) {
	for name, f := range map[string]func(*Plan){
		"rate": func(p *Plan) { p.Rate = "gold" }, "payers": func(p *Plan) { p.Accounts = 0 }, "time": func(p *Plan) { p.Duration = 0 },
		"presign": func(p *Plan) { p.Presign, p.PerSecond = true, 0 },
	} {
		p := plan("")
		if f(&p); p.Rate != "" {
			if _, err := NewDriver(t.Context(), p); !errors.Is(err, top.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestHistogram(t *testing.T) {
	var h, o Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("the median of nothing")
	}
	for i := range 10_000 {
		h.Add(time.Duration(i) * time.Millisecond)
	}
	o.Add(time.Hour)
	o.Add(-time.Second)
	h.Merge(&o)
	h.Merge(nil)
	for q, want := range map[float64]time.Duration{0.5: 5 * time.Second, 0.95: 9500 * time.Millisecond, 1: time.Hour} {
		if got := h.Quantile(q); got < want || got > want+want/30 {
			t.Errorf("%g: %s, want %s", q, got, want)
		}
	}
}

func TestPlot(t *testing.T) {
	s := Plot(Batched, 1000, []Second{{1, 2, 3}, {4, 5, 6}})
	if !strings.HasPrefix(s, "<svg ") || strings.Count(s, "<polyline") != 3 || !strings.Contains(s, ">6000<") {
		t.Error(s)
	}
}
