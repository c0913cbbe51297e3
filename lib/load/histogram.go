package load

import (
	"math/bits"
	"time"
)

// A Histogram counts durations in steps of at most 1/32 of each, as HdrHistogram
// does, from a tenth of a millisecond to two hours.
type Histogram struct {
	Counts []uint64 `json:"counts"`
}

const (
	histUnit = 100 * time.Microsecond
	histBits = 5
)

func histSlot(d time.Duration) int {
	v := uint64(max(d, 0) / histUnit)
	if v < 1<<histBits {
		return int(v)
	}
	shift := bits.Len64(v) - histBits - 1
	return shift<<histBits + int(v>>shift)
}

// histTop is the longest duration of a slot.
func histTop(slot int) time.Duration {
	if slot < 1<<histBits {
		return time.Duration(slot+1) * histUnit
	}
	shift := slot>>histBits - 1
	return time.Duration((slot-shift<<histBits+1)<<shift) * histUnit
}

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) {
	slot := histSlot(d)
	for len(h.Counts) <= slot {
		h.Counts = append(h.Counts, 0)
	}
	h.Counts[slot]++
}

// Merge adds what another counted.
func (h *Histogram) Merge(o *Histogram) {
	if o == nil {
		return
	}
	for i, n := range o.Counts {
		for len(h.Counts) <= i {
			h.Counts = append(h.Counts, 0)
		}
		h.Counts[i] += n
	}
}

// Quantile is the duration that a share of all does not exceed; 0 when there are
// none.
func (h *Histogram) Quantile(share float64) time.Duration {
	total := uint64(0)
	for _, n := range h.Counts {
		total += n
	}
	want := uint64(share*float64(total) + 0.5)
	seen := uint64(0)
	for i, n := range h.Counts {
		if seen += n; n > 0 && seen >= want {
			return histTop(i)
		}
	}
	return 0
}
