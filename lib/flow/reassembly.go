package flow

// reassembly is which payload of a TCP stream came: all before next, and spans
// beyond it, in order and apart (RFC 9293, 3.10.7.4; sequence numbers wrap).
type reassembly struct {
	begun bool
	next  uint32
	n     int
	spans [maxSpans]span
}

type span struct{ from, to uint32 }

// maxSpans is how many holes are remembered. With more the first is taken as filled,
// so that what fills it later counts as a duplicate: in the consumer's favour.
const maxSpans = 16

func less(a, b uint32) bool { return int32(a-b) < 0 }

func (r *reassembly) start(seq uint32) {
	if !r.begun {
		r.begun, r.next = true, seq
	}
}

// add notes a segment and says whether any of it is new.
func (r *reassembly) add(seq, length uint32) (fresh bool) {
	end := seq + length
	r.start(seq)
	if seq == r.next && r.n == 0 {
		r.next = end
		return true
	}
	if !less(r.next, end) {
		return false
	}
	if less(seq, r.next) {
		seq = r.next
	}
	i := 0
	for i < r.n && less(r.spans[i].to, seq) {
		i++
	}
	if i < r.n && !less(seq, r.spans[i].from) && !less(r.spans[i].to, end) {
		return false // within a span
	}
	s := span{seq, end}
	j := i
	for j < r.n && !less(end, r.spans[j].from) { // those that it touches
		if less(r.spans[j].from, s.from) {
			s.from = r.spans[j].from
		}
		if less(s.to, r.spans[j].to) {
			s.to = r.spans[j].to
		}
		j++
	}
	r.put(i, j, s)
	for r.n > 0 && !less(r.next, r.spans[0].from) { // the first hole is filled
		r.next = r.spans[0].to
		r.n = copy(r.spans[:], r.spans[1:r.n])
	}
	return true
}

// put replaces the spans from i to j by one.
func (r *reassembly) put(i, j int, s span) {
	if i == j && r.n == maxSpans {
		r.next = r.spans[0].to
		r.n = copy(r.spans[:], r.spans[1:r.n])
		if i == 0 {
			if less(r.next, s.to) {
				r.next = s.to
			}
			return
		}
		i, j = i-1, j-1
	}
	tail := append([]span{}, r.spans[j:r.n]...)
	r.spans[i] = s
	r.n = i + 1 + copy(r.spans[i+1:], tail)
}
