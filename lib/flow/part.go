package flow

// partKey names a packet that comes in fragments.
type partKey struct {
	remote, local [16]byte
	id            uint32
	proto         uint8
}

// part is a packet whose first fragment came for a flow of ours.
type part struct {
	flow *entry
	seq  uint32 // of TCP: the number that the first byte of its header would have
	room uint32 // bytes that may still come
	last int64
}

const (
	partLife  = 60 // seconds (RFC 8200, 4.5)
	maxPacket = 1<<16 - 1
)

func partOf(h header) partKey { return partKey{h.key.remote, h.key.local, h.id, h.key.proto} }

// expect lets the other fragments of a packet through. Of packets beyond maxParts the
// oldest is forgotten.
func (t *Table) expect(h header, e *entry, now int64) {
	if t.parts == nil {
		t.parts, t.order = map[partKey]*part{}, make([]partKey, maxParts)
	}
	k := partOf(h)
	if t.parts[k] == nil {
		delete(t.parts, t.order[t.turn])
		t.order[t.turn] = k
		t.turn = (t.turn + 1) % maxParts
	}
	p := &part{flow: e, seq: h.seq - h.head, room: maxPacket - min(maxPacket, uint32(len(h.transport))), last: now}
	if h.flags&flagSYN != 0 {
		p.seq++
	}
	t.parts[k] = p
}

// later judges a fragment that is not the first: bytes of a stream by their numbers,
// of others no more than a packet may have.
func (t *Table) later(h header, now int64) Verdict {
	p := t.parts[partOf(h)]
	n := uint32(len(h.transport))
	switch {
	case p == nil || now-p.last > partLife:
		return Unsolicited
	case n > p.room || n == 0:
		return Duplicate
	}
	p.room -= n
	if h.key.proto == tcp {
		return p.flow.payload(p.seq+h.at, n)
	}
	return Fresh
}
