package hashchain

import (
	"golang.org/x/sys/cpu"

	"top/lib/top"
)

// lanes says whether this processor has the instructions.
var lanes = hasLanes()

func hasLanes() bool {
	const sha = 1 << 29 // CPUID 7, EBX (Intel SDM volume 2A, "CPUID")
	if most, _ := cpuid(0, 0); most < 7 || !cpu.X86.HasAVX || !cpu.X86.HasSSSE3 {
		return false
	}
	_, b := cpuid(7, 0)
	return b&sha != 0
}

// cpuid is what CPUID puts into EAX and EBX.
func cpuid(leaf, sub uint32) (a, b uint32)

// Each walks n steps, at least one, of chains that begin at the pointers. Each value
// goes stride bytes after the one before it.
//
//go:noescape
func lanes1(p *top.ID, n, stride int)

//go:noescape
func lanes2(p *[2]*top.ID, n, stride int)

//go:noescape
func lanes3(p *[3]*top.ID, n, stride int)

//go:noescape
func lanes4(p *[4]*top.ID, n, stride int)

const size = len(top.ID{})

// A lane is a chain under way, whose current value is chain[left*down].
type lane struct {
	chain []top.ID
	left  int
}

func hashLane(w top.ID, n uint32) top.ID {
	for left := int(n); left > 0; left -= maxRun {
		lanes1(&w, min(left, maxRun), 0)
	}
	return w
}

func walkLanes(w []top.ID, steps []uint32) {
	steps = steps[:len(w)]
	for len(w) >= 4 { // chains of one length need no turns
		n := steps[0]
		if n == 0 || n > maxRun || steps[1] != n || steps[2] != n || steps[3] != n {
			break
		}
		lanes4(&[4]*top.ID{&w[0], &w[1], &w[2], &w[3]}, int(n), 0)
		w, steps = w[4:], steps[4:]
	}
	run(len(w), 0, func(i int) lane { return lane{w[i : i+1], int(steps[i])} })
}

func fillLanes(chains [][]top.ID) {
	run(len(chains), 1, func(i int) lane { return lane{chains[i], len(chains[i]) - 1} })
}

// run walks n chains, four at a time: the next begins where one ends. down is by how
// many values a chain goes down with each step.
func run(n, down int, chain func(int) lane) {
	var all [4]lane
	var p [4]*top.ID
	for next, live := 0, 0; ; {
		for ; live < len(all) && next < n; next++ {
			if all[live] = chain(next); all[live].left > 0 {
				live++
			}
		}
		if live == 0 {
			return
		}
		steps := maxRun
		for i := range all[:live] {
			steps = min(steps, all[i].left)
			p[i] = &all[i].chain[all[i].left*down]
		}
		switch live {
		case 1:
			lanes1(p[0], steps, -size*down)
		case 2:
			lanes2((*[2]*top.ID)(p[:]), steps, -size*down)
		case 3:
			lanes3((*[3]*top.ID)(p[:]), steps, -size*down)
		default:
			lanes4(&p, steps, -size*down)
		}
		for i := live - 1; i >= 0; i-- {
			if all[i].left -= steps; all[i].left == 0 {
				live--
				all[i] = all[live]
			}
		}
	}
}
