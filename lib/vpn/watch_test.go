package vpn

import (
	"net/netip"
	"testing"
	"time"

	"top/lib/wg"
)

// An exit is left for what it does not carry, not for questions that nobody had to
// answer, nor for those that there was no time to answer yet.
func TestWhenAnExitIsLeft(t *testing.T) {
	t.Parallel()
	type step struct{ at, sent, got uint64 } // ms, bytes so far
	every := func(ms, n, until uint64) (all []step) {
		for at := uint64(0); at <= until; at += ms {
			all = append(all, step{at, at/ms*n + n, 0})
		}
		return all
	}
	for name, tc := range map[string]struct {
		steps []step
		left  [2]uint64 // between; 0 is never
	}{
		"a stray packet, then a burst that is answered": {[]step{{0, 48, 0}, {7900, 700, 0}, {8200, 900, 0}, {9000, 900, 500}, {30000, 900, 500}}, [2]uint64{}},
		"a stray packet, and long after it a burst":     {[]step{{0, 48, 0}, {20000, 4000, 0}, {20300, 4000, 60}, {60000, 4000, 60}}, [2]uint64{}},
		"one host that is not there, by IPv6":           {[]step{{0, 80, 0}, {1000, 160, 0}, {3000, 240, 0}, {7000, 320, 0}, {15000, 400, 0}, {31000, 480, 0}, {99000, 480, 0}}, [2]uint64{}},
		"a datagram a minute that nobody answers":       {every(60_000, 300, 3_600_000), [2]uint64{}},
		"a download that stops, and its retries":        {[]step{{0, 5000, 99999}, {500, 5120, 99999}, {1000, 5240, 99999}, {2000, 5400, 99999}, {4000, 5600, 99999}, {8000, 5900, 99999}, {12000, 6000, 99999}}, [2]uint64{8000, 9100}},
		"questions that nobody answers":                 {every(250, 60, 20_000), [2]uint64{8000, 8300}},
		"a burst that nobody answers":                   {[]step{{0, 2000, 0}, {7000, 3000, 0}, {9000, 3000, 0}}, [2]uint64{8000, 8100}},
	} {
		f, p := flowing{}, newPaying()
		start, left, next := time.Unix(1000, 0), uint64(0), step{}
		f.look(p.id, 0, 0, start.Add(-time.Second))
		for at := uint64(0); at <= tc.steps[len(tc.steps)-1].at && left == 0; at += 50 {
			for len(tc.steps) > 0 && tc.steps[0].at <= at && len(tc.steps) > 1 {
				next, tc.steps = tc.steps[0], tc.steps[1:]
			}
			now := start.Add(time.Duration(at) * time.Millisecond)
			if f.look(p.id, next.sent, next.got, now); f.barren(now) {
				left = at
			}
		}
		if left < tc.left[0] || left > tc.left[1] {
			t.Errorf("%s: left after %d ms, want %d", name, left, tc.left)
		}
	}
}

// What is for many on a link is neither sent nor counted: TUN has nobody there.
func TestNeighboursAreNotBehindAnExit(t *testing.T) {
	t.Parallel()
	me4, me6 := netip.MustParseAddr("100.64.9.9"), netip.MustParseAddr("fe80::9")
	for to, want := range map[string]bool{
		"ff02::2": true, "ff0e::1": true, "224.0.0.251": true, "239.255.255.250": true, "255.255.255.255": true,
		"169.254.169.254": false, "fe80::1": false, // these the exit refuses
		"93.184.216.34": false, "100.64.0.1": false, "2606:2800::7": false, "fd74::1": false, "fec0::1": false, "223.255.255.1": false, "169.253.0.1": false,
	} {
		a := netip.MustParseAddr(to)
		from := me4
		if a.Is6() {
			from = me6
		}
		pkt := wg.UDP{From: netip.AddrPortFrom(from, 9), To: netip.AddrPortFrom(a, 9), Body: []byte("x")}.Packet()
		tun, p := &tunnel{now: time.Now, moved: make(chan struct{}, 1)}, newPaying()
		p.gate.limit.Store(firstCredit)
		tun.cur.Store(p)
		sizes := []int{len(pkt)}
		tun.Out([][]byte{pkt}, sizes, 0)
		if stayed := sizes[0] == 0; stayed != want || (p.sent.Load() == 0) != want {
			t.Errorf("%s: stays %t, %d bytes counted", to, stayed, p.sent.Load())
		}
	}
}

// What a far end pads within one hop more fits the hop before, by IPv6 too; of three hops
// the middle one alone goes by IPv4, and IPv6 within has what it may have at least.
func TestAPaddedPacketFitsEveryHop(t *testing.T) {
	t.Parallel()
	for hops := 1; hops <= 3; hops++ {
		for hop := range hops {
			around := hopOverhead
			if fits(hop, hops, target{end: netip.MustParseAddrPort("[2001:db8::1]:1")}) != nil {
				around = hopOverhead4
			}
			padded := (mtuOf(hop, hops) + 15) &^ 15 // WireGuard, 5.4.6
			if outer := padded + around; hop > 0 && outer > mtuOf(hop-1, hops) || outer > 1500+12 && hop == 0 {
				t.Errorf("hop %d of %d: packets of %d are %d outside", hop+1, hops, mtuOf(hop, hops), outer)
			}
		}
		if mtuOf(0, hops) != mtuPlain || mtuOf(hops-1, hops) < 1280 {
			t.Errorf("%d hops: %d and %d", hops, mtuOf(0, hops), mtuOf(hops-1, hops))
		}
	}
}
