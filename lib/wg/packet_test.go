package wg

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"

	"top/lib/top"
)

// check adds words the slow way: one's complement after each (RFC 1071, 1).
func check(parts ...[]byte) uint16 {
	all := bytes.Join(parts, nil)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	var s uint16
	for i := 0; i < len(all); i += 2 {
		old := s
		if s += binary.BigEndian.Uint16(all[i:]); s < old {
			s++
		}
	}
	return s
}

func TestUDPBackAndForth(t *testing.T) {
	for _, a := range [][2]string{{"100.64.0.1", "192.0.2.255"}, {"fd74::1", "2001:db8:ffff::ffff"}, {"0.0.0.0", "255.255.255.255"}} {
		from, to := netip.AddrPortFrom(netip.MustParseAddr(a[0]), 51820), netip.AddrPortFrom(netip.MustParseAddr(a[1]), 65535)
		for _, n := range []int{0, 1, 2, 3, 100, 1391, 65507} {
			want := UDP{from, to, bytes.Repeat([]byte{0xff, 0xa7, 1}, n/3+1)[:n]}
			p := want.Packet()
			got, err := ParseUDP(p)
			if err != nil || got.From != from || got.To != to || !bytes.Equal(got.Body, want.Body) {
				t.Fatalf("%v, %d bytes: %v, %v", from, n, got.From, err)
			}
			d, size := p[20:], []byte{0, 17, byte((n + 8) >> 8), byte(n + 8)}
			pseudo := [][]byte{p[12:20], size}
			if to.Addr().Is4() {
				if check(p[:20]) != 0xffff {
					t.Errorf("%v, %d bytes: checksum of IPv4", from, n)
				}
			} else {
				d, pseudo = p[40:], [][]byte{p[8:40], {0, 0}, size[2:], {0, 0, 0, 17}}
			}
			if check(append(pseudo, d)...) != 0xffff || d[6] == 0 && d[7] == 0 {
				t.Errorf("%v, %d bytes: checksum %x", from, n, d[6:8])
			}
		}
	}
}

// A checksum that comes to zero is sent as its other form (RFC 768).
func TestAChecksumIsNeverZero(t *testing.T) {
	from, to := netip.AddrPortFrom(netip.IPv6Loopback(), 1), netip.AddrPortFrom(netip.IPv6Loopback(), 2)
	p := UDP{from, to, []byte{0, 0}}.Packet()
	b := binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(p[46:])) // what it lacks
	if p = (UDP{from, to, b}).Packet(); p[46] != 0xff || p[47] != 0xff {
		t.Errorf("checksum %x", p[46:48])
	}
}

// The header of IPv4 by hand: total 31, no fragments, 64 hops, UDP.
func TestPacketByHand(t *testing.T) {
	p := UDP{netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2"), []byte("abc")}.Packet()
	if got, want := hex.EncodeToString(p[:20]), "4500001f000040004011"+"26cc"+"0a0000010a000002"; got != want {
		t.Errorf("%s\n%s", got, want)
	}
}

func TestParseUDPRefuses(t *testing.T) {
	p4 := packet(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), "abc")
	p6 := packet(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), "abc")
	with := func(p []byte, at int, b byte) []byte {
		p = append([]byte{}, p...)
		p[at] = b
		return p
	}
	for name, p := range map[string][]byte{
		"empty": {}, "v4 cut": p4[:27], "v6 cut": p6[:47], "version": with(p4, 0, 0x55), "options": with(p4, 0, 0x46),
		"tcp": with(p4, 9, 6), "more fragments": with(p4, 6, 0x20), "fragment": with(p4, 7, 1), "v6 tcp": with(p6, 6, 6),
		"v4 shorter": with(p4, 3, 30), "v4 longer": with(p4, 3, 32), "v6 shorter": with(p6, 5, 10), "v6 longer": with(p6, 5, 12),
		"udp shorter": with(p4, 25, 10), "udp longer": with(p4, 25, 12), "udp of 7": with(p4, 25, 7), "v6 udp shorter": with(p6, 45, 10),
		"a byte left": append(append([]byte{}, p4...), 0), "a byte short": p6[:len(p6)-1],
	} {
		if _, err := ParseUDP(p); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseUDP(p4); err != nil {
		t.Error(err)
	}
}

// What is read and written again is the same datagram, and what was written is read.
func FuzzParseUDP(f *testing.F) {
	f.Add(packet(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), "abc"))
	f.Add(packet(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), "abc"))
	f.Fuzz(func(t *testing.T, p []byte) {
		u, err := ParseUDP(p)
		if err != nil {
			return
		}
		again, err := ParseUDP(u.Packet())
		if err != nil || again.From != u.From || again.To != u.To || !bytes.Equal(again.Body, u.Body) {
			t.Fatalf("%v: %v, %v", u, again, err)
		}
	})
}
