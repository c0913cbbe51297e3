//go:build !amd64

package edwards

// fast says that this processor has lanes of its own: not yet.
const fast = false

func mulLanes(o, a, b *element)            { mulPlain(o, a, b) }
func squareLanes(o, a *element, n int)     { squarePlain(o, a, n) }
func squareTwoLanes(o, a *elements, n int) { panic("edwards: no lanes") }
func addLanes(o, a, b *element)            { addPlain(o, a, b) }
func subLanes(o, a, b *element)            { subPlain(o, a, b) }
func reduceLanes(o, a *element)            { reducePlain(o, a) }
func sumLanes(p *lanes, rows *Point, list *uint32, steps int, scratch *lanes) {
	panic("edwards: no lanes")
}
func firstLanes(p *lanes, rows *Point, list *uint32)         { panic("edwards: no lanes") }
func addPointLanes(p, q *lanes, d2 *element, scratch *lanes) { panic("edwards: no lanes") }
func doubleLanes(p *lanes, n int, scratch *lanes)            { panic("edwards: no lanes") }

func blockLanes(state *[8][8]uint64, data *[8]*byte, round *[80]uint64, live uint64) {
	panic("edwards: no lanes")
}
