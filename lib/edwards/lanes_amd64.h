// Macros of lanes_amd64.s: eight field elements at once, one in each 64-bit
// lane, radix 2^51, five limbs in five registers.
//
// Bounds. VPMADD52 reads 52 bits of each factor. An element is tight when every
// limb is below 2^51 + 2^11, so it is read whole. All that is written to memory
// is tight, and each macro says why.
//
// Registers throughout:
//	Z28  limb 0 of 2p, 2^52 - 38	Z29  limbs 1 to 4 of 2p, 2^52 - 2
//	Z30  19	Z31  2^51 - 1

#define CONSTANTS \
	MOVQ         $0xFFFFFFFFFFFDA, AX; \
	VPBROADCASTQ AX, Z28; \
	MOVQ         $0xFFFFFFFFFFFFE, AX; \
	VPBROADCASTQ AX, Z29; \
	MOVQ         $19, AX; \
	VPBROADCASTQ AX, Z30; \
	MOVQ         $0x7FFFFFFFFFFFF, AX; \
	VPBROADCASTQ AX, Z31

#define LOAD(m, p, a, b, c, d, e) \
	VMOVDQU64 m+0(p), a; \
	VMOVDQU64 m+64(p), b; \
	VMOVDQU64 m+128(p), c; \
	VMOVDQU64 m+192(p), d; \
	VMOVDQU64 m+256(p), e

#define STORE(a, b, c, d, e, m, p) \
	VMOVDQU64 a, m+0(p); \
	VMOVDQU64 b, m+64(p); \
	VMOVDQU64 c, m+128(p); \
	VMOVDQU64 d, m+192(p); \
	VMOVDQU64 e, m+256(p)

// CARRY passes what is above 51 bits of each limb to the next, once, and of the
// last, 19 times, to the first (2^255 = 19). With limbs below 2^60.1 the carries are
// below 2^9.1, except the last, which must be below 2^6.7 for a tight result: MUL
// shows it for products; sums and differences have limbs below 2^54, carries below 8.
// o may be r; t is spoilt.
#define CARRY(r0, r1, r2, r3, r4, t0, t1, t2, t3, t4, o0, o1, o2, o3, o4) \
	VPSRLQ        $51, r4, t4; \
	VPSRLQ        $51, r0, t0; \
	VPSRLQ        $51, r1, t1; \
	VPSRLQ        $51, r2, t2; \
	VPSRLQ        $51, r3, t3; \
	VPANDQ        Z31, r0, o0; \
	VPANDQ        Z31, r1, o1; \
	VPANDQ        Z31, r2, o2; \
	VPANDQ        Z31, r3, o3; \
	VPANDQ        Z31, r4, o4; \
	VPMADD52LUQ   t4, Z30, o0; \
	VPADDQ        t0, o1, o1; \
	VPADDQ        t1, o2, o2; \
	VPADDQ        t2, o3, o3; \
	VPADDQ        t3, o4, o4

// ADD sets o = a + b before the carry: limbs below 2^52 + 2^12.
#define ADD(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4, o0, o1, o2, o3, o4) \
	VPADDQ a0, b0, o0; \
	VPADDQ a1, b1, o1; \
	VPADDQ a2, b2, o2; \
	VPADDQ a3, b3, o3; \
	VPADDQ a4, b4, o4

// SUB sets o = a + 2p - b before the carry; a limb of b is below that of 2p, so no
// limb is negative, and all are below 2^53.
#define SUB(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4, o0, o1, o2, o3, o4) \
	VPADDQ a0, Z28, o0; \
	VPADDQ a1, Z29, o1; \
	VPADDQ a2, Z29, o2; \
	VPADDQ a3, Z29, o3; \
	VPADDQ a4, Z29, o4; \
	VPSUBQ b0, o0, o0; \
	VPSUBQ b1, o1, o1; \
	VPSUBQ b2, o2, o2; \
	VPSUBQ b3, o3, o3; \
	VPSUBQ b4, o4, o4

#define ROW(a, b0, b1, b2, b3, b4, l0, l1, l2, l3, l4, h0, h1, h2, h3, h4) \
	VPMADD52LUQ b0, a, l0; \
	VPMADD52LUQ b1, a, l1; \
	VPMADD52LUQ b2, a, l2; \
	VPMADD52LUQ b3, a, l3; \
	VPMADD52LUQ b4, a, l4; \
	VPMADD52HUQ b0, a, h0; \
	VPMADD52HUQ b1, a, h1; \
	VPMADD52HUQ b2, a, h2; \
	VPMADD52HUQ b3, a, h3; \
	VPMADD52HUQ b4, a, h4

#define ZERO(r) VPXORQ r, r, r

#define ZERO18 \
	ZERO(Z10); ZERO(Z11); ZERO(Z12); ZERO(Z13); ZERO(Z14); ZERO(Z15); \
	ZERO(Z16); ZERO(Z17); ZERO(Z18); ZERO(Z19); ZERO(Z20); ZERO(Z21); \
	ZERO(Z22); ZERO(Z23); ZERO(Z24); ZERO(Z25); ZERO(Z26); ZERO(Z27)

// FOLD makes limbs 0 to 4 (r) of limbs 0 to 9 (r, s) of a product: r + 19 s.
#define FOLD(r0, r1, r2, r3, r4, s0, s1, s2, s3, s4) \
	VPMULLQ s0, Z30, s0; \
	VPMULLQ s1, Z30, s1; \
	VPMULLQ s2, Z30, s2; \
	VPMULLQ s3, Z30, s3; \
	VPMULLQ s4, Z30, s4; \
	VPADDQ  s0, r0, r0; \
	VPADDQ  s1, r1, r1; \
	VPADDQ  s2, r2, r2; \
	VPADDQ  s3, r3, r3; \
	VPADDQ  s4, r4, r4

// MUL sets o to Z0-4 times Z5-9, both of limbs below 2^52; it spoils Z10-27.
// Z10-18 gather the low 52 bits of the products of weight 2^51k, Z19-27 the high
// ones, of weight 2^51(k+1) twice over. In units of 2^52 limb k of the product is
// below 1 4 7 10 13 14 11 8 5 2 (low ones, and twice the high ones). Folded,
// limb 0 is below 1 + 19*14 = 267, so below 2^60.1, the others are less, and limb
// 4 is below 13 + 19*2 = 51. The carries are below 534, and the last 102: times
// 19 below 2^11.
#define MUL(o0, o1, o2, o3, o4) \
	ZERO18; \
	ROW(Z0, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z19, Z20, Z21, Z22, Z23); \
	ROW(Z1, Z5, Z6, Z7, Z8, Z9, Z11, Z12, Z13, Z14, Z15, Z20, Z21, Z22, Z23, Z24); \
	ROW(Z2, Z5, Z6, Z7, Z8, Z9, Z12, Z13, Z14, Z15, Z16, Z21, Z22, Z23, Z24, Z25); \
	ROW(Z3, Z5, Z6, Z7, Z8, Z9, Z13, Z14, Z15, Z16, Z17, Z22, Z23, Z24, Z25, Z26); \
	ROW(Z4, Z5, Z6, Z7, Z8, Z9, Z14, Z15, Z16, Z17, Z18, Z23, Z24, Z25, Z26, Z27); \
	VPADDQ Z19, Z19, Z19; \
	VPADDQ Z20, Z20, Z20; \
	VPADDQ Z21, Z21, Z21; \
	VPADDQ Z22, Z22, Z22; \
	VPADDQ Z23, Z23, Z23; \
	VPADDQ Z24, Z24, Z24; \
	VPADDQ Z25, Z25, Z25; \
	VPADDQ Z26, Z26, Z26; \
	VPADDQ Z27, Z27, Z27; \
	VPADDQ Z19, Z11, Z11; \
	VPADDQ Z20, Z12, Z12; \
	VPADDQ Z21, Z13, Z13; \
	VPADDQ Z22, Z14, Z14; \
	VPADDQ Z23, Z15, Z15; \
	VPADDQ Z24, Z16, Z16; \
	VPADDQ Z25, Z17, Z17; \
	VPADDQ Z26, Z18, Z18; \
	FOLD(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z27); \
	CARRY(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19, o0, o1, o2, o3, o4)

// SQUARE sets o to the square of Z0-4 and spoils Z5-27. Each product of two
// different limbs is made once and doubled: low halves in Z11-17 (weight k), high
// ones in Z19-25 (weight k = 2 to 8, twice over). The high half of the square of
// limb i is twice of odd weight 2i+1, so it joins the low halves before they are
// doubled; the low one is of even weight and stands in Z5-9. The bounds are MUL's.
#define SQUARE(o0, o1, o2, o3, o4) \
	ZERO(Z5); ZERO(Z6); ZERO(Z7); ZERO(Z8); ZERO(Z9); ZERO18; \
	VPMADD52LUQ Z1, Z0, Z11; \
	VPMADD52LUQ Z2, Z0, Z12; \
	VPMADD52LUQ Z3, Z0, Z13; \
	VPMADD52LUQ Z4, Z0, Z14; \
	VPMADD52LUQ Z4, Z1, Z15; \
	VPMADD52LUQ Z4, Z2, Z16; \
	VPMADD52LUQ Z4, Z3, Z17; \
	VPMADD52HUQ Z1, Z0, Z19; \
	VPMADD52HUQ Z2, Z0, Z20; \
	VPMADD52HUQ Z3, Z0, Z21; \
	VPMADD52HUQ Z4, Z0, Z22; \
	VPMADD52HUQ Z4, Z1, Z23; \
	VPMADD52HUQ Z4, Z2, Z24; \
	VPMADD52HUQ Z4, Z3, Z25; \
	VPMADD52LUQ Z2, Z1, Z13; \
	VPMADD52LUQ Z3, Z1, Z14; \
	VPMADD52LUQ Z3, Z2, Z15; \
	VPMADD52HUQ Z2, Z1, Z21; \
	VPMADD52HUQ Z3, Z1, Z22; \
	VPMADD52HUQ Z3, Z2, Z23; \
	VPMADD52HUQ Z0, Z0, Z11; \
	VPMADD52HUQ Z1, Z1, Z13; \
	VPMADD52HUQ Z2, Z2, Z15; \
	VPMADD52HUQ Z3, Z3, Z17; \
	VPMADD52HUQ Z4, Z4, Z18; \
	VPMADD52LUQ Z0, Z0, Z5; \
	VPMADD52LUQ Z1, Z1, Z6; \
	VPMADD52LUQ Z2, Z2, Z7; \
	VPMADD52LUQ Z3, Z3, Z8; \
	VPMADD52LUQ Z4, Z4, Z9; \
	VPADDQ Z23, Z23, Z23; \
	VPADDQ Z24, Z24, Z24; \
	VPADDQ Z25, Z25, Z25; \
	VPADDQ Z22, Z22, Z22; \
	VPADDQ Z19, Z19, Z19; \
	VPADDQ Z20, Z20, Z20; \
	VPADDQ Z21, Z21, Z21; \
	VPADDQ Z23, Z16, Z16; \
	VPADDQ Z24, Z17, Z17; \
	VPADDQ Z22, Z15, Z15; \
	VPADDQ Z19, Z12, Z12; \
	VPADDQ Z20, Z13, Z13; \
	VPADDQ Z21, Z14, Z14; \
	VPADDQ Z16, Z16, Z16; \
	VPADDQ Z17, Z17, Z17; \
	VPADDQ Z18, Z18, Z18; \
	VPADDQ Z15, Z15, Z15; \
	VPADDQ Z11, Z11, Z11; \
	VPADDQ Z12, Z12, Z12; \
	VPADDQ Z13, Z13, Z13; \
	VPADDQ Z14, Z14, Z14; \
	VPADDQ Z8, Z16, Z16; \
	VPADDQ Z6, Z12, Z12; \
	VPADDQ Z7, Z14, Z14; \
	VPADDQ Z25, Z25, Z25; \
	VPADDQ Z9, Z25, Z25; \
	FOLD(Z5, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z25, Z18); \
	CARRY(Z5, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z19, Z20, o0, o1, o2, o3, o4)

// COLUMNS turns eight rows of eight words (r) into eight columns, in place; t is
// spoilt.
#define COLUMNS(r0, r1, r2, r3, r4, r5, r6, r7, t0, t1, t2, t3, t4, t5, t6, t7) \
	VPUNPCKLQDQ r1, r0, t0; \
	VPUNPCKHQDQ r1, r0, t1; \
	VPUNPCKLQDQ r3, r2, t2; \
	VPUNPCKHQDQ r3, r2, t3; \
	VPUNPCKLQDQ r5, r4, t4; \
	VPUNPCKHQDQ r5, r4, t5; \
	VPUNPCKLQDQ r7, r6, t6; \
	VPUNPCKHQDQ r7, r6, t7; \
	VSHUFI64X2  $0x88, t2, t0, r0; \
	VSHUFI64X2  $0xdd, t2, t0, r1; \
	VSHUFI64X2  $0x88, t6, t4, r2; \
	VSHUFI64X2  $0xdd, t6, t4, r3; \
	VSHUFI64X2  $0x88, t3, t1, r4; \
	VSHUFI64X2  $0xdd, t3, t1, r5; \
	VSHUFI64X2  $0x88, t7, t5, r6; \
	VSHUFI64X2  $0xdd, t7, t5, r7; \
	VSHUFI64X2  $0x88, r2, r0, t0; \
	VSHUFI64X2  $0xdd, r2, r0, t4; \
	VSHUFI64X2  $0x88, r3, r1, t2; \
	VSHUFI64X2  $0xdd, r3, r1, t6; \
	VSHUFI64X2  $0x88, r6, r4, t1; \
	VSHUFI64X2  $0xdd, r6, r4, t5; \
	VSHUFI64X2  $0x88, r7, r5, t3; \
	VSHUFI64X2  $0xdd, r7, r5, t7
