package flow

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

var (
	me4, you4, other4 = netip.MustParseAddr("100.64.1.2"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
	me6, you6, other6 = netip.MustParseAddr("fd74::2"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::9")
)

// ip is a packet; the options of IPv4 are what ext has.
func ip(from, to netip.Addr, proto byte, body []byte, ext ...byte) []byte {
	if from.Is4() {
		p := make([]byte, 20, 20+len(ext)+len(body))
		p[0], p[8], p[9] = 0x45+byte(len(ext)/4), 64, proto
		copy(p[12:], from.AsSlice())
		copy(p[16:], to.AsSlice())
		p = append(append(p, ext...), body...)
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		return p
	}
	p := make([]byte, 40, 40+len(body))
	p[0], p[6], p[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(body)))
	copy(p[8:], from.AsSlice())
	copy(p[24:], to.AsSlice())
	return append(p, body...)
}

type seg struct {
	from, to uint16
	seq, ack uint32
	flags    byte
	window   uint16
	options  []byte
	n        int // of payload
}

func (s seg) bytes() []byte {
	p := make([]byte, 20+len(s.options)+s.n)
	binary.BigEndian.PutUint16(p, s.from)
	binary.BigEndian.PutUint16(p[2:], s.to)
	binary.BigEndian.PutUint32(p[4:], s.seq)
	binary.BigEndian.PutUint32(p[8:], s.ack)
	p[12], p[13] = byte(20+len(s.options))/4<<4, s.flags
	binary.BigEndian.PutUint16(p[14:], s.window)
	copy(p[20:], s.options)
	return p
}

func udpOf(from, to uint16, n int) []byte {
	p := make([]byte, 8+n)
	binary.BigEndian.PutUint16(p, from)
	binary.BigEndian.PutUint16(p[2:], to)
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)))
	return p
}

func icmpOf(kind byte, id uint16, body []byte) []byte {
	p := make([]byte, 8, 8+len(body))
	p[0] = kind
	binary.BigEndian.PutUint16(p[4:], id)
	return append(p, body...)
}

// cut makes a fragment of what a packet carries, from a byte of it to another.
func cut(p []byte, from, to int, id uint32) []byte {
	if p[0]>>4 == 4 {
		n := int(p[0]&15) * 4
		body := p[n:]
		f := append(append([]byte{}, p[:n]...), body[from:to]...)
		frag := uint16(from / 8)
		if to < len(body) {
			frag |= 0x2000
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], uint16(id))
		binary.BigEndian.PutUint16(f[6:], frag)
		return f
	}
	body := p[40:]
	frag := uint16(from)
	if to < len(body) {
		frag |= 1
	}
	h := []byte{p[6], 0, byte(frag >> 8), byte(frag), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
	f := append(append(append([]byte{}, p[:40]...), h...), body[from:to]...)
	f[6] = part6
	binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
	return f
}

func (t *Table) out(now int64, pkts ...[]byte) uint64 { return t.Out(pkts, nil, 0, now) }

func (t *Table) in(now int64, p []byte) (v Verdict) {
	t.In([][]byte{p}, 0, now, func(_ int, got Verdict) { v = got })
	return v
}

// step is a packet and what the table says of it; of one that goes out, nothing.
type step struct {
	out  []byte
	in   []byte
	want Verdict
	at   int64
}

func walk(t *testing.T, steps ...step) {
	t.Helper()
	var table Table
	for i, s := range steps {
		if s.out != nil {
			if got := table.out(s.at, s.out); got != uint64(len(s.out)) {
				t.Errorf("step %d: %d bytes count, want %d", i, got, len(s.out))
			}
			continue
		}
		if got := table.in(s.at, s.in); got != s.want {
			t.Errorf("step %d: %v, want %v", i, got, s.want)
		}
	}
}

// hello is a connection that was opened, by both addresses.
func hello(me, you netip.Addr) []step {
	return []step{
		{out: ip(me, you, tcp, seg{from: 1000, to: 443, seq: 50, flags: flagSYN, window: 64240, options: []byte{2, 4, 5, 0xb4, 1, 3, 3, 7}}.bytes())},
		{in: ip(you, me, tcp, seg{from: 443, to: 1000, seq: 7000, ack: 51, flags: flagSYN | flagACK, window: 65535}.bytes()), want: Fresh},
		{out: ip(me, you, tcp, seg{from: 1000, to: 443, seq: 51, ack: 7001, flags: flagACK, window: 502}.bytes())}, // 502 << 7 = 64,256
	}
}

func data(you, me netip.Addr, seq uint32, n int) []byte {
	return ip(you, me, tcp, seg{from: 443, to: 1000, seq: seq, ack: 51, flags: flagACK, n: n}.bytes())
}

func TestF1_WhatAnswersAFlowCounts(t *testing.T) {
	for _, net := range []struct {
		name           string
		me, you, other netip.Addr
		icmp           byte
		request, reply byte
	}{{"v4", me4, you4, other4, icmp, 8, 0}, {"v6", me6, you6, other6, icmp6, 128, 129}} {
		me, you, other := net.me, net.you, net.other
		query := step{out: ip(me, you, udp, udpOf(5353, 53, 30))}
		for name, steps := range map[string][]step{
			"udp": {query,
				{in: ip(you, me, udp, udpOf(53, 5353, 100)), want: Fresh},
				{in: ip(you, me, udp, udpOf(53, 5353, 100)), want: Fresh}, // the same bytes may be another answer
				{in: ip(you, me, udp, udpOf(53, 5354, 100)), want: Unsolicited},
				{in: ip(you, me, udp, udpOf(54, 5353, 100)), want: Unsolicited},
				{in: ip(you, me, udp, udpOf(5353, 53, 100)), want: Unsolicited},
				{in: ip(other, me, udp, udpOf(53, 5353, 100)), want: Unsolicited},
				{in: ip(you, other, udp, udpOf(53, 5353, 100)), want: Unsolicited},
				{in: ip(you, me, tcp, seg{from: 53, to: 5353, n: 9}.bytes()), want: Unsolicited},
				{in: ip(you, me, udp, udpOf(53, 5353, 9)), want: Fresh, at: udpLife},
				{in: ip(you, me, udp, udpOf(53, 5353, 9)), want: Unsolicited, at: udpLife + 1}},
			"udp goes on": {query,
				{out: query.out, at: udpLife},
				{in: ip(you, me, udp, udpOf(53, 5353, 9)), want: Fresh, at: 2 * udpLife}},
			"tcp": append(hello(me, you),
				step{in: data(you, me, 7001, 1400), want: Fresh},
				step{in: data(other, me, 8401, 1400), want: Unsolicited},
				step{in: ip(you, me, tcp, seg{from: 443, to: 1001, seq: 7001, flags: flagACK, n: 5}.bytes()), want: Unsolicited},
				step{in: data(you, me, 8401, 1400), want: Fresh, at: udpLife * 5}),
			"syn nobody sent": {{in: ip(you, me, tcp, seg{from: 443, to: 1000, flags: flagSYN}.bytes()), want: Unsolicited}},
			"echo": {{out: ip(me, you, net.icmp, icmpOf(net.request, 77, nil))},
				{in: ip(you, me, net.icmp, icmpOf(net.reply, 77, nil)), want: Fresh},
				{in: ip(you, me, net.icmp, icmpOf(net.reply, 78, nil)), want: Unsolicited},
				{in: ip(you, me, net.icmp, icmpOf(net.request, 77, nil)), want: Unsolicited}, // a ping of theirs
				{in: ip(other, me, net.icmp, icmpOf(net.reply, 77, nil)), want: Unsolicited},
				{in: ip(you, me, net.icmp, icmpOf(net.reply, 77, nil)), want: Unsolicited, at: udpLife + 1}},
			"icmp opens nothing": {{out: ip(me, you, net.icmp, icmpOf(3, 0, query.out[:40]))},
				{in: ip(you, me, net.icmp, icmpOf(net.reply, 0, nil)), want: Unsolicited},
				{in: ip(you, me, net.icmp, icmpOf(3, 0, nil)), want: Unsolicited}},
			"another protocol": {{out: ip(me, you, 47, []byte{1})},
				{in: ip(you, me, 47, []byte{2}), want: Fresh},
				{in: ip(other, me, 47, []byte{2}), want: Unsolicited},
				{in: ip(you, me, 50, []byte{2}), want: Unsolicited}},
		} {
			t.Run(net.name+" "+name, func(t *testing.T) { walk(t, steps...) })
		}
	}
}

func TestErrorsAboutFlowsOfOurs(t *testing.T) {
	q4, q6 := ip(me4, you4, udp, udpOf(5353, 53, 30)), ip(me6, you6, udp, udpOf(5353, 53, 30))
	tcp4 := ip(me4, you4, tcp, seg{from: 1000, to: 443, flags: flagSYN}.bytes())
	opt4 := ip(me4, you4, udp, udpOf(1, 2, 30), 7, 4, 4, 0)
	ping4, ping6 := ip(me4, you4, icmp, icmpOf(8, 5, nil)), ip(me6, you6, icmp6, icmpOf(128, 5, nil))
	foreign := ip(me4, you4, udp, udpOf(5353, 54, 30))
	reversed := ip(you4, me4, udp, udpOf(53, 5353, 30))
	later := cut(ip(me4, you4, udp, udpOf(5353, 53, 100)), 16, 40, 9)
	for name, tc := range map[string]struct {
		ours, in []byte
		want     Verdict
	}{
		"unreachable":         {q4, ip(other4, me4, icmp, icmpOf(3, 0, q4)), Fresh},
		"id like an echo":     {ping4, ip(you4, me4, icmp, icmpOf(3, 5, foreign)), Unsolicited},
		"time":                {q4, ip(other4, me4, icmp, icmpOf(11, 0, q4[:28])), Fresh},
		"parameter":           {q4, ip(other4, me4, icmp, icmpOf(12, 0, q4[:28])), Fresh},
		"redirect":            {q4, ip(other4, me4, icmp, icmpOf(5, 0, q4[:28])), Unsolicited},
		"cut before ports":    {q4, ip(other4, me4, icmp, icmpOf(3, 0, q4[:27])), Unsolicited},
		"cut in its header":   {q4, ip(other4, me4, icmp, icmpOf(3, 0, q4[:19])), Unsolicited},
		"nothing":             {q4, ip(other4, me4, icmp, icmpOf(3, 0, nil)), Unsolicited},
		"tcp, eight bytes":    {tcp4, ip(other4, me4, icmp, icmpOf(3, 0, tcp4[:28])), Fresh},
		"with options":        {opt4, ip(other4, me4, icmp, icmpOf(3, 0, opt4[:32])), Fresh},
		"options, cut":        {opt4, ip(other4, me4, icmp, icmpOf(3, 0, opt4[:31])), Unsolicited},
		"about a ping":        {ping4, ip(other4, me4, icmp, icmpOf(11, 0, ping4)), Fresh},
		"about another's":     {q4, ip(other4, me4, icmp, icmpOf(3, 0, foreign)), Unsolicited},
		"about an answer":     {q4, ip(other4, me4, icmp, icmpOf(3, 0, reversed)), Unsolicited},
		"about a fragment":    {q4, ip(other4, me4, icmp, icmpOf(3, 0, later)), Unsolicited},
		"to another":          {q4, ip(other4, other4, icmp, icmpOf(3, 0, q4)), Unsolicited},
		"v6 too big":          {q6, ip(other6, me6, icmp6, icmpOf(2, 0, q6)), Fresh},
		"v6 unreachable, cut": {q6, ip(other6, me6, icmp6, icmpOf(1, 0, q6[:48])), Fresh},
		"v6 cut too far":      {q6, ip(other6, me6, icmp6, icmpOf(1, 0, q6[:47])), Unsolicited},
		"v6 parameter":        {q6, ip(other6, me6, icmp6, icmpOf(4, 0, q6)), Fresh},
		"v6 about a ping":     {ping6, ip(other6, me6, icmp6, icmpOf(3, 0, ping6)), Fresh},
		"v6 router":           {q6, ip(other6, me6, icmp6, icmpOf(134, 0, q6)), Unsolicited},
	} {
		t.Run(name, func(t *testing.T) { walk(t, step{out: tc.ours}, step{in: tc.in, want: tc.want}) })
	}
}

func TestMalformed(t *testing.T) {
	u4, u6, s4 := ip(me4, you4, udp, udpOf(1, 2, 3)), ip(me6, you6, udp, udpOf(1, 2, 3)), ip(me4, you4, tcp, seg{n: 3}.bytes())
	with := func(p []byte, at int, b byte) []byte {
		p = append([]byte{}, p...)
		p[at] = b
		return p
	}
	for name, p := range map[string][]byte{
		"empty": {}, "one byte": {0x45}, "version 5": with(u4, 0, 0x55), "version 0": make([]byte, 60),
		"v4 header of 16": with(u4, 0, 0x44), "v4 header beyond": with(u4, 0, 0x4f), "v4 cut": u4[:19],
		"v4 length short": with(u4, 3, 30), "v4 length long": with(u4, 3, 32), "v4 length of half a header": with(u4[:20], 3, 19),
		"v6 cut": u6[:39], "v6 length": with(u6, 5, 10), "v6 longer": append(append([]byte{}, u6...), 0),
		"udp cut": ip(me4, you4, udp, make([]byte, 7)), "icmp cut": ip(me4, you4, icmp, make([]byte, 7)),
		"tcp cut": ip(me4, you4, tcp, make([]byte, 19)), "tcp header of 16": with(s4, 32, 0x40), "tcp header beyond": with(s4, 32, 0x60),
		"v6 fragment cut": ip(me6, you6, part6, make([]byte, 7)), "v6 fragment of nothing": ip(me6, you6, part6, []byte{udp, 0, 0, 0, 0, 0, 0, 1}),
	} {
		var table Table
		if n := table.out(0, p); n != 0 || table.Flows() != 0 {
			t.Errorf("%s: %d bytes count, %d flows", name, n, table.Flows())
		}
		if got := table.in(0, p); got != Malformed {
			t.Errorf("%s: %v", name, got)
		}
	}
	walk(t, step{out: u4}, step{out: u6}, step{out: s4}) // and they are well when nothing was changed
}

func TestFragments(t *testing.T) {
	for name, a := range map[string][2]netip.Addr{"v4": {me4, you4}, "v6": {me6, you6}} {
		me, you := a[0], a[1]
		big := ip(you, me, udp, udpOf(53, 5353, 3000))
		query := step{out: ip(me, you, udp, udpOf(5353, 53, 30))}
		t.Run(name+" udp", func(t *testing.T) {
			walk(t, query,
				step{in: cut(big, 1400, 2800, 7), want: Unsolicited}, // before the first
				step{in: cut(big, 0, 1400, 7), want: Fresh},
				step{in: cut(big, 2800, 3008, 7), want: Fresh},
				step{in: cut(big, 1400, 2800, 7), want: Fresh},
				step{in: cut(big, 1400, 2800, 8), want: Unsolicited},
				step{in: cut(big, 1400, 2800, 7), want: Fresh, at: partLife},
				step{in: cut(big, 1400, 2800, 7), want: Unsolicited, at: partLife + 1})
		})
		t.Run(name+" nobody asked", func(t *testing.T) {
			walk(t, step{in: cut(big, 0, 1400, 7), want: Unsolicited}, step{in: cut(big, 1400, 2800, 7), want: Unsolicited})
		})
		t.Run(name+" ours open nothing", func(t *testing.T) {
			out := ip(me, you, udp, udpOf(5353, 53, 3000))
			walk(t, step{out: cut(out, 1400, 2800, 7)}, step{in: cut(big, 1400, 2800, 7), want: Unsolicited},
				step{out: cut(out, 0, 1400, 7)}, step{in: ip(you, me, udp, udpOf(53, 5353, 9)), want: Fresh})
		})
		t.Run(name+" no more than a packet", func(t *testing.T) {
			var table Table
			table.out(0, query.out)
			table.in(0, cut(big, 0, 1400, 7))
			bytes := 1400
			for range 1000 {
				if table.in(0, cut(big, 1400, 2800, 7)) == Fresh {
					bytes += 1400
				}
			}
			if bytes > maxPacket || bytes < 60000 {
				t.Errorf("%d bytes of one packet count", bytes)
			}
		})
		t.Run(name+" tcp by its numbers", func(t *testing.T) {
			whole := data(you, me, 7001, 2800) // 2,820 with its header
			walk(t, append(hello(me, you),
				step{in: cut(whole, 0, 1400, 7), want: Fresh},        // 7001 to 8381
				step{in: cut(whole, 1400, 2820, 7), want: Fresh},     // to 9801
				step{in: cut(whole, 1400, 2820, 7), want: Duplicate}, // again
				step{in: data(you, me, 8381, 1420), want: Duplicate}, // and not in a fragment
				step{in: data(you, me, 9801, 10), want: Fresh})...)
		})
	}
}

func TestF2_WhatCameBeforeCountsOnce(t *testing.T) {
	ack := func(n uint32, window uint16) step {
		return step{out: ip(me4, you4, tcp, seg{from: 1000, to: 443, seq: 51, ack: n, flags: flagACK, window: window}.bytes())}
	}
	come := func(seq uint32, n int, v Verdict) step { return step{in: data(you4, me4, seq, n), want: v} }
	for name, steps := range map[string][]step{
		"again":                  {come(7001, 1400, Fresh), come(7001, 1400, Duplicate), come(8401, 1400, Fresh), come(7001, 1400, Duplicate)},
		"before it":              {come(6000, 1001, Duplicate), come(6999, 1, Duplicate), come(7001, 10, Fresh)},
		"out of order":           {come(8401, 1400, Fresh), come(7001, 1400, Fresh), come(8401, 1400, Duplicate), come(9801, 1, Fresh)},
		"one new byte":           {come(7001, 1400, Fresh), come(7002, 1400, Duplicate), come(7003, 1400, Duplicate), come(8403, 100, Fresh)},
		"around a hole":          {come(8000, 100, Fresh), come(7001, 1400, Duplicate), come(7001, 999, Duplicate), come(8401, 100, Fresh)},
		"as far as offered":      {come(7001+64256-1400, 1400, Fresh), come(7001+64256, 1, Duplicate), come(7001+64256-1, 2, Duplicate)},
		"far ahead":              {come(7001+1<<30, 1400, Duplicate), come(7001, 1400, Fresh)},
		"the window moves":       {come(7001, 1400, Fresh), ack(8401, 502), come(8401+64256-1, 1, Fresh), come(8401+64256, 1, Duplicate)},
		"a window never shrinks": {ack(7001, 0), come(7001, 1400, Fresh)},
		"another connection": {come(7001, 1400, Fresh),
			{out: ip(me4, you4, tcp, seg{from: 1000, to: 443, seq: 900, flags: flagSYN, window: 2000}.bytes())},
			come(8401, 100, Duplicate), // of the one before
			{in: ip(you4, me4, tcp, seg{from: 443, to: 1000, seq: 99, flags: flagSYN | flagACK}.bytes()), want: Fresh},
			come(100, 1400, Fresh), come(100, 1400, Duplicate), come(1500, 1400, Duplicate), // 2,000 were offered
			ack(1500, 1400), come(1500, 1400, Fresh), come(2900, 1, Duplicate)}, // and no scale
	} {
		t.Run(name, func(t *testing.T) { walk(t, append(hello(me4, you4), steps...)...) })
	}
	t.Run("with the answer to a SYN", func(t *testing.T) {
		first := ip(you4, me4, tcp, seg{from: 443, to: 1000, seq: 7000, flags: flagSYN | flagACK, n: 100}.bytes())
		walk(t, hello(me4, you4)[0], step{in: first, want: Fresh}, step{in: first, want: Duplicate},
			come(7001, 100, Duplicate), come(7101, 64140, Fresh), come(71241, 1, Duplicate))
	})
	t.Run("before an answer to the SYN", func(t *testing.T) { walk(t, hello(me4, you4)[0], come(1, 100, Duplicate)) })
	t.Run("from the middle", func(t *testing.T) {
		walk(t, ack(5000, 100), come(6400, 1400, Fresh), come(5000, 1400, Fresh), come(4000, 1000, Duplicate))
	})
	for name, p := range map[string][]byte{
		"bare acknowledgements": data(you4, me4, 7001, 0),
		"resets":                ip(you4, me4, tcp, seg{from: 443, to: 1000, seq: 7001, flags: 4}.bytes()),
		"ends":                  ip(you4, me4, tcp, seg{from: 443, to: 1000, seq: 7001, flags: 1 | flagACK}.bytes()),
		"beginnings":            ip(you4, me4, tcp, seg{from: 443, to: 1000, seq: 7000, flags: flagSYN | flagACK}.bytes()),
		"errors":                ip(other4, me4, icmp, icmpOf(3, 0, ip(me4, you4, tcp, seg{from: 1000, to: 443}.bytes()))),
	} {
		t.Run("a flood of "+name, func(t *testing.T) {
			var table Table
			steps := hello(me4, you4)
			table.out(0, steps[0].out, steps[2].out)
			fresh := 0
			for range 10000 {
				switch table.in(0, p) {
				case Fresh:
					fresh++
				case Duplicate:
				default:
					t.Fatal("dropped")
				}
			}
			if fresh == 0 || fresh > 2+spare {
				t.Errorf("%d of 10000 count, for two packets that were sent", fresh)
			}
		})
	}
	t.Run("a flood of replies", func(t *testing.T) {
		var table Table
		for range 5 {
			table.out(0, ip(me4, you4, icmp, icmpOf(8, 1, nil)))
		}
		fresh := 0
		for range 1000 {
			if table.in(0, ip(you4, me4, icmp, icmpOf(0, 1, nil))) == Fresh {
				fresh++
			}
		}
		if fresh != 5+spare {
			t.Errorf("%d replies to 5 requests count", fresh)
		}
	})
}

// An exit that floods is not paid for it, whatever it makes up about one connection.
func TestAFloodPaysNothing(t *testing.T) {
	var table Table
	steps := hello(me4, you4)
	table.out(0, steps[0].out)
	table.in(0, steps[1].in)
	table.out(0, steps[2].out)
	r := rand.New(rand.NewPCG(1, 2))
	var paid, sent int
	for range 300000 {
		var p []byte
		switch r.IntN(5) {
		case 0: // nobody asked
			p = ip(other4, me4, udp, udpOf(uint16(r.Uint32()), uint16(r.Uint32()), 1000))
		case 1: // garbage far and near
			p = data(you4, me4, r.Uint32(), 1400)
		case 2: // marching on
			p = data(you4, me4, 7001+uint32(sent), 1400)
		case 3:
			p = data(you4, me4, 7001, 0)
		case 4: // pieces
			p = cut(data(you4, me4, r.Uint32(), 1400), 0, 1000, r.Uint32N(9))
		}
		sent += len(p)
		if table.in(0, p) == Fresh {
			paid += len(p)
		}
	}
	// The window that the consumer offered is what he may have to pay.
	if paid > 2*64256 {
		t.Errorf("%d of %d bytes count", paid, sent)
	}
}

func TestF3_AFloodIsBounded(t *testing.T) {
	var table Table
	keep := ip(me4, you4, udp, udpOf(1, 2, 1))
	idle := ip(me4, other4, udp, udpOf(3, 4, 1))
	answer, late := ip(you4, me4, udp, udpOf(2, 1, 1)), ip(other4, me4, udp, udpOf(4, 3, 1))
	table.out(0, keep, idle)
	most := 0
	for i := range 5 * maxFlows {
		to := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		table.out(0, ip(me4, to, udp, udpOf(uint16(i), 53, 0)))
		if i%1000 == 0 {
			table.out(0, keep)
			most = max(most, table.Flows())
			if table.in(0, answer) != Fresh {
				t.Fatalf("after %d flows one that goes on is forgotten", i)
			}
		}
	}
	if most > 2*maxFlows || most < maxFlows {
		t.Errorf("%d flows, want at most %d", most, 2*maxFlows)
	}
	if table.in(0, late) != Unsolicited {
		t.Error("a flow that was idle outlived the flood")
	}
	// What comes from the tunnel opens nothing, in no number.
	n := table.Flows()
	first := ip(you4, me4, udp, udpOf(2, 1, 3000))
	for i := range 100000 {
		table.in(0, cut(first, 0, 1400, uint32(i)))
		table.in(0, ip(other4, me4, udp, udpOf(uint16(i), 1, 0)))
	}
	if table.Flows() != n || len(table.parts) > maxParts {
		t.Errorf("%d flows, were %d; %d packets in parts", table.Flows(), n, len(table.parts))
	}
	if table.in(0, answer) != Fresh {
		t.Error("a flood from outside made it forget")
	}
}

func TestAConnectionIsKeptWhileIdle(t *testing.T) {
	var table Table
	for _, s := range hello(me4, you4) {
		if s.out != nil {
			table.out(0, s.out)
		} else {
			table.in(0, s.in)
		}
	}
	for s := int64(0); s < turnEvery; s += 60 { // another flow turns the table over
		table.out(s, ip(me4, other4, udp, udpOf(uint16(s), 53, 0)))
	}
	if got := table.in(turnEvery, data(you4, me4, 7001, 5)); got != Fresh {
		t.Errorf("after 2 hours and 4 minutes: %v", got)
	}
	for s := int64(turnEvery); s <= 3*turnEvery; s += 60 {
		table.out(s, ip(me4, other4, udp, udpOf(uint16(s), 53, 0)))
	}
	if got := table.in(3*turnEvery, data(you4, me4, 7006, 5)); got != Unsolicited {
		t.Errorf("after 6 hours: %v", got)
	}
}

func TestSizesAndOffset(t *testing.T) {
	var table Table
	p, q := ip(me4, you4, udp, udpOf(1, 2, 3)), ip(me6, you6, udp, udpOf(1, 2, 3))
	room := func(p []byte) []byte { return append(append(make([]byte, 16), p...), make([]byte, 50)...) }
	got := table.Out([][]byte{room(p), room(q), room(p)}, []int{len(p), 0, len(p)}, 16, 0)
	if got != uint64(2*len(p)) || table.Flows() != 1 {
		t.Errorf("%d bytes, %d flows", got, table.Flows())
	}
	var seen []string
	table.In([][]byte{append(make([]byte, 16), ip(you4, me4, udp, udpOf(2, 1, 3))...), append(make([]byte, 16), 1)}, 16, 0,
		func(i int, v Verdict) { seen = append(seen, fmt.Sprint(i, v)) })
	if fmt.Sprint(seen) != "[0 0 1 3]" {
		t.Errorf("verdicts %v", seen)
	}
}

func TestScaleOfAWindow(t *testing.T) {
	for name, tc := range map[string]struct {
		options []byte
		want    uint8
	}{
		"none": {nil, 0}, "alone": {[]byte{3, 3, 9, 0}, 9}, "after others": {[]byte{2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 10}, 10},
		"too large": {[]byte{1, 3, 3, 200}, maxScale}, "after the end": {[]byte{0, 3, 3, 9}, 0}, "cut": {[]byte{1, 1, 3, 3}, 0},
		"no length": {[]byte{1, 1, 1, 3}, 0}, "length 0": {[]byte{2, 0, 3, 3, 9, 0, 0, 0}, 0}, "length 1": {[]byte{2, 1, 3, 3}, 0}, "length beyond": {[]byte{2, 40, 3, 3}, 0},
	} {
		h, ok := parse(ip(me4, you4, tcp, seg{flags: flagSYN, options: tc.options}.bytes()), true)
		if got := h.scale(); !ok || got != tc.want {
			t.Errorf("%s: %d, %v, want %d", name, got, ok, tc.want)
		}
	}
}

// FuzzTable sends made-up packets both ways: no panic, a bounded table, and nothing
// that nobody asked for counts.
func FuzzTable(f *testing.F) {
	for _, s := range append(hello(me4, you4), hello(me6, you6)...) {
		f.Add(s.out, s.in)
	}
	big := ip(you4, me4, udp, udpOf(53, 5353, 3000))
	f.Add(ip(me4, you4, udp, udpOf(5353, 53, 30)), cut(big, 0, 1400, 1))
	f.Add(cut(big, 1400, 2800, 1), ip(other4, me4, icmp, icmpOf(3, 0, big[:28])))
	f.Add(ip(me6, you6, icmp6, icmpOf(128, 1, nil)), cut(ip(you6, me6, udp, udpOf(1, 2, 100)), 0, 48, 1))
	f.Fuzz(func(t *testing.T, out, in []byte) {
		var table Table
		if v := table.in(0, in); v != Unsolicited && v != Malformed {
			t.Fatalf("nobody asked, and it is %v", v)
		}
		n := table.out(0, out)
		if n != 0 && n != uint64(len(out)) || table.Flows() > 1 {
			t.Fatalf("%d of %d bytes, %d flows", n, len(out), table.Flows())
		}
		for range 3 {
			table.in(0, in)
		}
		if v := table.in(0, out); v == Fresh && table.Flows() == 0 {
			t.Fatal("counts without a flow")
		}
	})
}

func BenchmarkOut(b *testing.B) {
	for _, flows := range []int{1, 10000} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			var table Table
			pkts := make([][]byte, flows)
			for i := range pkts {
				pkts[i] = ip(me4, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), tcp, seg{from: 1000, to: 443, flags: flagACK, window: 500, n: 1400}.bytes())
			}
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				table.Out(pkts[i%flows:i%flows+1], nil, 0, 0)
			}
		})
	}
}

func BenchmarkIn(b *testing.B) {
	for _, flows := range []int{1, 10000} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			var table Table
			pkts := make([][]byte, flows)
			for i := range pkts {
				to := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
				table.out(0, ip(me4, to, tcp, seg{from: 1000, to: 443, flags: flagACK, window: 65535}.bytes()))
				pkts[i] = ip(to, me4, tcp, seg{from: 443, to: 1000, flags: flagACK, n: 1400}.bytes())
			}
			b.ReportAllocs()
			seq := make([]uint32, flows)
			each := func(int, Verdict) {}
			for i := 0; i < b.N; i++ {
				j := i % flows
				binary.BigEndian.PutUint32(pkts[j][24:], seq[j])
				seq[j] += 1400
				table.In(pkts[j:j+1], 0, 0, each)
			}
		})
	}
}
