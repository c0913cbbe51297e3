package flow

import "encoding/binary"

// Resets are packets that end the consumer's TCP connections, as if the other sides
// had reset them (RFC 9293, 3.5.2, at the very number that RFC 5961, 3.2 asks for):
// when the way that they went is gone, their programs should know at once.
func (t *Table) Resets() (pkts [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, flows := range []map[key]*entry{t.new, t.old} {
		for k, e := range flows {
			if k.proto == tcp && e.bytes.begun {
				pkts = append(pkts, reset(k, e.bytes.next))
			}
		}
	}
	return pkts
}

// flagRST ends a connection (RFC 9293, 3.1).
const flagRST = 4

// reset makes the packet.
func reset(k key, seq uint32) []byte {
	four := [12]byte(k.local[4:]) == [12]byte{}
	ip, addr := 40, 16
	if four {
		ip, addr = 20, 4
	}
	p := make([]byte, ip+20)
	s := p[ip:]
	binary.BigEndian.PutUint16(s, uint16(k.ports))
	binary.BigEndian.PutUint16(s[2:], uint16(k.ports>>16))
	binary.BigEndian.PutUint32(s[4:], seq)
	s[12], s[13] = 5<<4, flagRST
	var pseudo uint64
	if four {
		p[0], p[8], p[9] = 0x45, 64, tcp
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		copy(p[12:], k.remote[:addr])
		copy(p[16:], k.local[:addr])
		binary.BigEndian.PutUint16(p[10:], ^fold(words(p[:ip])))
		pseudo = words(p[12:20])
	} else {
		p[0], p[6], p[7] = 0x60, tcp, 64
		binary.BigEndian.PutUint16(p[4:], 20)
		copy(p[8:], k.remote[:])
		copy(p[24:], k.local[:])
		pseudo = words(p[8:40])
	}
	binary.BigEndian.PutUint16(s[16:], ^fold(pseudo+tcp+20+words(s)))
	return p
}

// words adds 16-bit words (RFC 1071).
func words(b []byte) (s uint64) {
	for ; len(b) >= 2; b = b[2:] {
		s += uint64(b[0])<<8 | uint64(b[1])
	}
	return s
}

func fold(s uint64) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
