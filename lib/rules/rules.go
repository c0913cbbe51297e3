// Package rules is the rules of the house, as tests: each reads the tree and
// says where it is not as docs/architecture.md, docs/contract.md and
// docs/style.md want it. It holds no code that another room could import.
//
//	R1   imports point to a lower floor, as the table of rooms says
//	R2   a big dependency is imported by its one room
//	R3   a pure room reads no clock, disk or network, draws nothing at random,
//	     starts nothing and knows no float
//	R4   a name of ours needs no renaming: not beside the standard library, not
//	     util, common, types or base
//	R5   top-wallet and top-tui link no consensus, no libp2p, no media and no tunnel
//	R6   a room begins with what it is; each invariant that it numbers has a test
//	     of that name
//	R7   functions, files, rooms, structs and lists of parameters keep their sizes
//	R8   there is no init and no global that changes
//	R9   a test waits for events: it never sleeps, never skips, names no port
//	R10  what is drawn at random outside tests comes from crypto/rand
//	R11  the tree speaks of itself alone: no path of a machine, nothing left undone
//	R12  documents and code name the same things: decisions, records, commands
//	R13  a module is linked for a reason, under a licence that allows it
//	R14  the process belongs to main: it alone exits and has the standard streams,
//	     and lib/tool alone reads flags and environment
//	R15  an exception is a line in waivers.txt with a reason, and is needed
package rules
