// Package edwards is arithmetic on edwards25519 in lanes of eight, for verification
// alone: nothing here takes constant time, so nothing secret may enter. It judges
// no signature (lib/keys does).
//
//	F1  field, points and sums are those of the curve, for every tight element
//	F2  the instructions and the plain code leave the same numbers
//	F3  every encoding that ZIP-215 takes for a point is that point, and no other is one
package edwards

// Fast says whether this processor has the instructions for it: AVX-512 with IFMA.
// Without them all works, slower than a library made for one point at a time.
func Fast() bool { return fast }
