// Package hashchain is chains of SHA-256 over 32 bytes, walked several at a time. A
// step waits for the one before it, and a core has room for the steps of three other
// chains meanwhile: where the processor has instructions for SHA-256, four chains take
// half as long again as one (docs/decisions/0013-lanes.md).
//
//	HC1  every way to walk gives what crypto/sha256 gives, step by step
package hashchain

import (
	"crypto/sha256"

	"top/lib/top"
)

// maxRun is how many steps are walked without a pause: in a tenth of a millisecond the
// runtime cannot stop the thread.
const maxRun = 2048

// Walk puts SHA-256, applied steps[i] times, into each w[i].
func Walk(w []top.ID, steps []uint32) {
	if lanes {
		walkLanes(w, steps)
	} else {
		walkEach(w, steps)
	}
}

// Hash is SHA-256 applied n times to w.
func Hash(w top.ID, n uint32) top.ID {
	if lanes {
		return hashLane(w, n)
	}
	return hashEach(w, n)
}

// Fill makes chains: each value but the last, which is given, becomes the hash of the
// one after it.
func Fill(chains ...[]top.ID) {
	if lanes {
		fillLanes(chains)
	} else {
		fillEach(chains)
	}
}

func walkEach(w []top.ID, steps []uint32) {
	for i := range w {
		w[i] = hashEach(w[i], steps[i])
	}
}

func hashEach(w top.ID, n uint32) top.ID {
	for range n {
		w = sha256.Sum256(w[:])
	}
	return w
}

func fillEach(chains [][]top.ID) {
	for _, w := range chains {
		for i := len(w) - 1; i > 0; i-- {
			w[i-1] = sha256.Sum256(w[i][:])
		}
	}
}
