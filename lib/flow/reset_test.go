package flow

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// A reset comes from the other side of a connection that was opened, at the number
// that is expected next, with sums that are right; what is no TCP gets none.
func TestResetsEndWhatIsOpen(t *testing.T) {
	for name, four := range map[string]bool{"IPv4": true, "IPv6": false} {
		t.Run(name, func(t *testing.T) {
			ip, at, n := 40, 8, 16
			if four {
				ip, at, n = 20, 12, 4
			}
			local, remote := bytes.Repeat([]byte{10}, n), bytes.Repeat([]byte{93}, n)
			segment := func(out bool, flags byte, seq, ack uint32, payload int) []byte {
				p := make([]byte, ip+20+payload)
				from, to, sp, dp := local, remote, uint16(4000), uint16(80)
				if !out {
					from, to, sp, dp = remote, local, 80, 4000
				}
				if four {
					p[0], p[9] = 0x45, 6
					binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
				} else {
					p[0], p[6] = 0x60, 6
					binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
				}
				copy(p[at:], from)
				copy(p[at+n:], to)
				s := p[ip:]
				binary.BigEndian.PutUint16(s, sp)
				binary.BigEndian.PutUint16(s[2:], dp)
				binary.BigEndian.PutUint32(s[4:], seq)
				binary.BigEndian.PutUint32(s[8:], ack)
				s[12], s[13] = 0x50, flags
				binary.BigEndian.PutUint16(s[14:], 60000)
				return p
			}
			var table Table
			if len(table.Resets()) != 0 {
				t.Fatal("resets of nothing")
			}
			in := func(p []byte) {
				table.In([][]byte{p}, 0, 1, func(_ int, v Verdict) {
					if v != Fresh {
						t.Fatalf("verdict %d", v)
					}
				})
			}
			table.Out([][]byte{segment(true, flagSYN, 7, 0, 0)}, nil, 0, 1)
			in(segment(false, flagSYN|flagACK, 999, 8, 0))
			table.Out([][]byte{segment(true, flagACK, 8, 1000, 0)}, nil, 0, 1)
			in(segment(false, flagACK, 1000, 8, 500))
			all := table.Resets()
			if len(all) != 1 {
				t.Fatalf("%d resets", len(all))
			}
			p := all[0]
			if !bytes.Equal(p[at:at+n], remote) || !bytes.Equal(p[at+n:at+2*n], local) {
				t.Errorf("from %v to %v", p[at:at+n], p[at+n:at+2*n])
			}
			s := p[ip:]
			if binary.BigEndian.Uint16(s) != 80 || binary.BigEndian.Uint16(s[2:]) != 4000 || binary.BigEndian.Uint32(s[4:]) != 1500 || s[13] != flagRST {
				t.Errorf("segment %x", s)
			}
			if got := fold(words(p[at:at+2*n]) + tcp + 20 + words(s)); got != 0xffff {
				t.Errorf("sum %x", got)
			}
			if four && fold(words(p[:20])) != 0xffff {
				t.Error("sum of the header")
			}
		})
	}
}
