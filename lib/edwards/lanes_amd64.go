package edwards

// fast says that the processor has the instructions of lanes_amd64.s.
var fast = supported()

// supported asks the processor and the operating system.
//
//go:noescape
func supported() bool

// mulLanes sets o = a b.
//
//go:noescape
func mulLanes(o, a, b *element)

// squareLanes sets o = a^(2^n), n > 0.
//
//go:noescape
func squareLanes(o, a *element, n int)

// squareTwoLanes sets both o = a^(2^n), n > 0.
//
//go:noescape
func squareTwoLanes(o, a *elements, n int)

// addLanes sets o = a + b.
//
//go:noescape
func addLanes(o, a, b *element)

// subLanes sets o = a - b.
//
//go:noescape
func subLanes(o, a, b *element)

// reduceLanes sets o = a below p.
//
//go:noescape
func reduceLanes(o, a *element)

// sumLanes is lanes.sum.
//
//go:noescape
func sumLanes(p *lanes, rows *Point, list *uint32, steps int, scratch *lanes)

// firstLanes sets p to the eight points of a list.
//
//go:noescape
func firstLanes(p *lanes, rows *Point, list *uint32)

// addPointLanes sets p = p + q; d2 is 2d.
//
//go:noescape
func addPointLanes(p, q *lanes, d2 *element, scratch *lanes)

// doubleLanes sets p = 2^n p, n > 0.
//
//go:noescape
func doubleLanes(p *lanes, n int, scratch *lanes)

// blockLanes hashes a block of 128 bytes into each lane of a SHA-512 state that is in
// live. The others are read at data too, and nothing comes of it.
//
//go:noescape
func blockLanes(state *[8][8]uint64, data *[8]*byte, round *[80]uint64, live uint64)
