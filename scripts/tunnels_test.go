package scripts

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"top/lib/api"
)

// BenchmarkTunnels measures paid tunnels beside plain wireguard-go, in turn, on
// namespaces of this machine (docs/tunnels.md). Run it with -benchtime 1x; it needs
// root, ip, nft and wg.
func BenchmarkTunnels(b *testing.B) {
	l := newLab(b)
	fresh := l.up("bob")
	for _, row := range []struct {
		name string
		run  func(*testing.B, *lab)
	}{
		{"bulk", bulkRow}, {"flood", floodRow}, {"latency", latencyRow}, {"bill", billRow}, {"far", farRow}, {"carry", carryRow},
	} {
		b.Run(row.name, func(b *testing.B) { row.run(b, l) })
	}
	b.Run("start", func(b *testing.B) { l.startRow(b, fresh) })
}

// rounds5 is how often each of two things is measured, in turn.
const rounds5 = 5

// bulkRow is one TCP stream over each, in turn for half a second, and what processor time
// of both ends a gigabyte took. The turns are short and many, since a shared machine is
// faster and slower by a fifth for some seconds: what was measured one after the other is
// compared first.
func bulkRow(b *testing.B, l *lab) {
	ends := [2][]*exec.Cmd{l.plain[:], l.paid[:]}
	for way, down := range map[string]bool{"upload": false, "download": true} {
		var streams [2]*stream
		for i := range streams {
			streams[i] = l.stream(fmt.Sprint("a", i+1), down)
			streams[i].run(2 * time.Second)
		}
		var rate [2][]float64
		var ratio []float64
		var bytes, work [2]float64
		for range 60 {
			for i, s := range streams {
				before := l.cpu(ends[i]...)
				n, took := s.run(500 * time.Millisecond)
				work[i] += l.cpu(ends[i]...) - before
				bytes[i] += n
				rate[i] = append(rate[i], n*8/took.Seconds()/1e6)
			}
			ratio = append(ratio, last(rate[1])/last(rate[0]))
		}
		for i, s := range streams {
			s.close()
			work[i] *= 1e9 / bytes[i]
		}
		b.Logf("TCP %s: plain %.0f, paid %.0f Mbit/s, turn by turn %.1f %%; processor, both ends: plain %.2f, paid %.2f s/GB, %+.1f %%", way,
			median(rate[0]), median(rate[1]), 100*median(ratio), work[0], work[1], 100*(work[1]/work[0]-1))
	}
}

func last[V any](all []V) V { return all[len(all)-1] }

// floodRow offers more and more datagrams: of those that could come, how many do.
func floodRow(b *testing.B, l *lab) {
	rates := []float64{250, 500, 1000, 1500, 2000, 0}
	for i, what := range []string{"plain", "paid"} {
		peak, least, line := 0.0, 1.0, ""
		for _, rate := range rates {
			var all, offers []float64
			for range rounds5 {
				came, offered := l.flood(fmt.Sprint("a", i+1), rate, time.Second)
				all, offers = append(all, came), append(offers, offered)
			}
			came, offered := median(all), median(offers)
			peak = max(peak, came)
			least = min(least, came/min(peak, offered))
			line += fmt.Sprintf("  %.0f of %.0f", came, offered)
		}
		b.Logf("UDP beyond capacity, %s: %.0f %% of the peak at the worst; Mbit/s that came of those offered:%s", what, 100*least, line)
	}
}

// latencyRow is round trips one after the other.
func latencyRow(b *testing.B, l *lab) {
	var all [2][]time.Duration
	for range 2 * rounds5 {
		for i := range all {
			all[i] = append(all[i], l.echo(fmt.Sprint("a", i+1), 500)...)
		}
	}
	plain, paid := median(all[0]), median(all[1])
	b.Logf("latency: plain %v, paid %v, %+.1f %%", plain, paid, 100*(float64(paid)/float64(plain)-1))
}

// billed is what Alice's daemon counted of all sessions, in bytes.
func (l *lab) billed(b *testing.B) (acknowledged, control float64) {
	var m api.VPNMeter
	if err := l.vpn("alice").Meters(b.Context(), 0, func(v api.VPNMeter) error { m = v; return nil }); err != nil {
		b.Fatal(err)
	}
	return float64(m.Acknowledged), float64(m.Control)
}

// settled is billed once it does not move any more.
func (l *lab) settled(b *testing.B) (acknowledged, control float64) {
	last := -1.0
	l.eventually("the bill stands still", func() bool {
		before := last
		<-time.After(300 * time.Millisecond)
		last, control = l.billed(b)
		return last == before
	})
	return last, control
}

// billRow compares the bill with the kernel's own counters.
func billRow(b *testing.B, l *lab) {
	for way, down := range map[string]bool{"upload": false, "download": true} {
		before, words := l.settled(b)
		kernel := l.moved("a2", down, 500e6)
		after, more := l.settled(b)
		b.Logf("TCP %s: billed %.0f, the kernel %.0f bytes, %+.2f %%; ticks, vouchers and pings %.4f %%", way, after-before, kernel, 100*((after-before)/kernel-1), 100*(more-words)/kernel)
	}
	before, _ := l.settled(b)
	near, far := l.packets("a2")
	defer near.Close()
	defer far.Close()
	const n = 2000
	packet := make([]byte, 1000)
	for range n {
		near.Write(packet)
		if _, err := far.Read(packet); err != nil {
			b.Fatal(err)
		}
	}
	after, _ := l.settled(b)
	b.Logf("UDP: billed %.0f, the kernel %d bytes, %+.2f %%", after-before, n*1028, 100*((after-before)/(n*1028)-1))
}

// farRow is a line with a round trip of 100 ms: the first seconds of a session, while its
// credit grows, and what it gives after them.
func farRow(b *testing.B, l *lab) {
	const rtt = 100 * time.Millisecond
	l.sh("a1", "wg set "+l.prefix+"a1 peer "+l.public[1]+" endpoint "+l.late("b1", "10.9.1.2", rtt).String())
	defer l.sh("a1", "wg set "+l.prefix+"a1 peer "+l.public[1]+" endpoint 10.9.1.2:5555")
	l.up(l.at(b, "wg://", l.late("b2", "10.9.2.2", rtt).String()))
	defer l.up("bob")
	const first = 9 * time.Second
	plain, paid := l.bulk("a1", false, 0, first), l.bulk("a2", false, 0, first)
	b.Logf("round trip 100 ms, the first %v of a session, TCP upload: plain %.0f, paid %.0f Mbit/s", first, plain.mbit, paid.mbit)
	for i, way := range []string{"upload", "download"} {
		var rate [2][]float64
		for range rounds5 {
			for k := range rate {
				rate[k] = append(rate[k], l.bulk(fmt.Sprint("a", k+1), i == 1, 4*time.Second, 4*time.Second).mbit)
			}
		}
		b.Logf("round trip 100 ms, TCP %s: plain %.0f, paid %.0f Mbit/s, %.1f %%; all plain %.0f, paid %.0f", way, median(rate[0]), median(rate[1]), 100*median(rate[1])/median(rate[0]), rate[0], rate[1])
	}
}

// at is the address of Bob's exit by another socket.
func (l *lab) at(b *testing.B, scheme, host string) string {
	s, err := l.vpn("bob").Status(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, a := range s.Addrs {
		if rest, ok := strings.CutPrefix(a, scheme); ok {
			_, key, _ := strings.Cut(rest, "/")
			key, query, _ := strings.Cut(key, "?")
			return scheme + host + "/" + key + "?" + query + "&node=" + s.Node.String()
		}
	}
	b.Fatalf("no %s of %v", scheme, s.Addrs)
	return ""
}

// carryRow is a whole tunnel over each carriage.
func carryRow(b *testing.B, l *lab) {
	defer l.up("bob")
	for _, carry := range []string{"plain", "quic", "wss"} {
		up := l.up("bob", "--carry", carry)
		var rate [2][]float64
		var first []time.Duration
		gap := time.Duration(0)
		for range 3 {
			for i, down := range []bool{false, true} {
				f := l.bulk("a2", down, time.Second, 2*time.Second)
				rate[i] = append(rate[i], f.mbit)
				gap = max(gap, f.gap)
				if down {
					first = append(first, f.first)
				}
			}
		}
		b.Logf("carriage %s: upload %.0f, download %.0f Mbit/s, first byte after %v, longest gap %v, up in %v", carry, median(rate[0]), median(rate[1]), median(first), gap, up)
	}
}

// startRow is how long a tunnel takes from the command to the first byte.
func (l *lab) startRow(b *testing.B, fresh time.Duration) {
	var all []time.Duration
	for range rounds5 {
		up := l.up("bob")
		near, far, began := l.pair("a2")
		go far.Write([]byte{1})
		if _, err := near.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		all = append(all, up+time.Since(began))
		near.Close()
		far.Close()
	}
	b.Logf("up: until it carries with no channel %v; until the first byte with a channel open %v, all %v", fresh, median(all), all)
}
