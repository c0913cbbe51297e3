package session

import (
	"time"

	"top/lib/hashchain"
	"top/lib/top"
)

// together is how many ticks are hashed before the first of them is judged.
const together = 16

// Ticks takes ticks as Tick does, one after the other, and hashes several at once:
// what a busy session or many sessions of one payer bring together costs a quarter.
// It gives how many were refused, and why the first was.
func (m *Meter) Ticks(now time.Time, all []Tick) (refused int, why error) {
	var w [together]top.ID
	var from, steps [together]uint32 // 0 steps: Tick judges it alone
	var of [together]*served
	for len(all) > 0 {
		part := all[:min(len(all), together)]
		all = all[len(part):]
		for i := range part {
			if of[i] = m.find(part[i].Session); of[i] != nil {
				of[i].ahead = of[i].i
			}
		}
		for i := range part {
			t, s := &part[i], of[i]
			if steps[i] = 0; s == nil || s.closed || t.I <= s.ahead || t.I > s.reach || now.Unix() >= m.near {
				continue
			}
			w[i], from[i], steps[i] = t.W, s.ahead, t.I-s.ahead
			s.ahead = t.I
		}
		hashchain.Walk(w[:len(part)], steps[:len(part)])
		for i := range part {
			t, s, err := &part[i], of[i], error(nil)
			if steps[i] > 0 && s.i == from[i] && !s.closed {
				err = m.hashed(now, s, t, w[i])
			} else { // or one before it turned out wrong
				err = m.Tick(now, t)
			}
			if err != nil {
				if refused++; why == nil {
					why = err
				}
			}
		}
	}
	return refused, why
}
