//go:build !amd64

package hashchain

import "top/lib/top"

const lanes = false

func hashLane(w top.ID, n uint32) top.ID { return hashEach(w, n) }

func walkLanes(w []top.ID, steps []uint32) { walkEach(w, steps) }

func fillLanes(chains [][]top.ID) { fillEach(chains) }
