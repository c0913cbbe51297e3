package flow

// reassembly is which payload of a TCP stream came: all before next, and spans
// beyond it, in order and apart (RFC 9293, 3.10.7.4; sequence numbers wrap).
type reassembly struct {
	begun bool
	next  uint32
	spans []span
}

type span struct{ from, to uint32 }

// maxSpans is how many are remembered. With more the first hole is taken as filled,
// so that what fills it later counts as a duplicate: in the consumer's favour.
const maxSpans = 16

// less compares sequence numbers that are at most 2^31 apart.
func less(a, b uint32) bool { return int32(a-b) < 0 }

func (r *reassembly) start(seq uint32) {
	if !r.begun {
		r.begun, r.next = true, seq
	}
}

// add notes a segment and says whether all of it is new: a packet that brings again
// what came counts for nothing, however little else is in it.
func (r *reassembly) add(seq, length uint32) (fresh bool) {
	end := seq + length
	r.start(seq)
	if seq == r.next && len(r.spans) == 0 {
		r.next = end
		return true
	}
	if !less(r.next, end) {
		return false
	}
	fresh = true
	if less(seq, r.next) {
		seq, fresh = r.next, false
	}
	i := 0
	for i < len(r.spans) && less(r.spans[i].to, seq) {
		i++
	}
	s, j := span{seq, end}, i
	for j < len(r.spans) && !less(end, r.spans[j].from) { // those that it touches
		o := r.spans[j]
		if less(o.from, end) && less(seq, o.to) {
			fresh = false
		}
		if less(o.from, s.from) {
			s.from = o.from
		}
		if less(s.to, o.to) {
			s.to = o.to
		}
		j++
	}
	r.put(i, j, s)
	for len(r.spans) > maxSpans || len(r.spans) > 0 && !less(r.next, r.spans[0].from) {
		r.next = r.spans[0].to
		r.spans = r.spans[:copy(r.spans, r.spans[1:])]
	}
	return fresh
}

// put replaces the spans from i to j by one.
func (r *reassembly) put(i, j int, s span) {
	if i == j {
		r.spans = append(r.spans, span{})
		copy(r.spans[i+1:], r.spans[i:])
		r.spans[i] = s
		return
	}
	r.spans[i] = s
	r.spans = append(r.spans[:i+1], r.spans[j:]...)
}
