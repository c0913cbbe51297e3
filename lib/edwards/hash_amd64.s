#include "textflag.h"
#include "lanes_amd64.h"

// SHA-512 (FIPS 180-4, 6.4) of eight blocks, one in each lane: the state in Z0-7, the
// last 16 words of the schedule in Z8-23.

// The bytes of each word backwards.
DATA swapped<>+0(SB)/8, $0x0001020304050607
DATA swapped<>+8(SB)/8, $0x08090a0b0c0d0e0f
GLOBL swapped<>(SB), RODATA|NOPTR, $16

// ROUND is a round: h += S1(e) + Ch(e,f,g) + k + w, d += h, h += S0(a) + Maj(a,b,c).
#define ROUND(a, b, c, d, e, f, g, h, w, k) \
	VPADDQ.BCST k*8(DX), w, Z24; \
	VPRORQ      $14, e, Z25; \
	VPRORQ      $18, e, Z26; \
	VPRORQ      $41, e, Z27; \
	VMOVDQA64   e, Z28; \
	VPTERNLOGQ  $0xCA, g, f, Z28; \
	VPADDQ      Z24, h, h; \
	VPTERNLOGQ  $0x96, Z27, Z26, Z25; \
	VPADDQ      Z28, h, h; \
	VPRORQ      $28, a, Z29; \
	VPRORQ      $34, a, Z30; \
	VPRORQ      $39, a, Z31; \
	VPADDQ      Z25, h, h; \
	VPADDQ      h, d, d; \
	VPTERNLOGQ  $0x96, Z31, Z30, Z29; \
	VMOVDQA64   a, Z28; \
	VPTERNLOGQ  $0xE8, c, b, Z28; \
	VPADDQ      Z29, h, h; \
	VPADDQ      Z28, h, h

// NEXT makes w 16 words later: w += s1(w14) + w9 + s0(w1).
#define NEXT(w, w1, w9, w14) \
	VPRORQ     $19, w14, Z24; \
	VPRORQ     $61, w14, Z25; \
	VPSRLQ     $6, w14, Z26; \
	VPRORQ     $1, w1, Z27; \
	VPRORQ     $8, w1, Z28; \
	VPSRLQ     $7, w1, Z29; \
	VPADDQ     w9, w, w; \
	VPTERNLOGQ $0x96, Z26, Z25, Z24; \
	VPTERNLOGQ $0x96, Z29, Z28, Z27; \
	VPADDQ     Z24, w, w; \
	VPADDQ     Z27, w, w

#define ROWS(m) \
	MOVQ 0(SI), AX; \
	VMOVDQU64 m(AX), Z24; \
	MOVQ 8(SI), AX; \
	VMOVDQU64 m(AX), Z25; \
	MOVQ 16(SI), AX; \
	VMOVDQU64 m(AX), Z26; \
	MOVQ 24(SI), AX; \
	VMOVDQU64 m(AX), Z27; \
	MOVQ 32(SI), AX; \
	VMOVDQU64 m(AX), Z28; \
	MOVQ 40(SI), AX; \
	VMOVDQU64 m(AX), Z29; \
	MOVQ 48(SI), AX; \
	VMOVDQU64 m(AX), Z30; \
	MOVQ 56(SI), AX; \
	VMOVDQU64 m(AX), Z31

#define SWAPPED(a, b, c, d, e, f, g, h) \
	VPSHUFB Z24, a, a; \
	VPSHUFB Z24, b, b; \
	VPSHUFB Z24, c, c; \
	VPSHUFB Z24, d, d; \
	VPSHUFB Z24, e, e; \
	VPSHUFB Z24, f, f; \
	VPSHUFB Z24, g, g; \
	VPSHUFB Z24, h, h

#define KEEP(z, m) \
	VPADDQ    m(DI), z, z; \
	VMOVDQU64 z, K1, m(DI)

// func blockLanes(state *[8][8]uint64, data *[8]*byte, round *[80]uint64, live uint64)
TEXT ·blockLanes(SB), NOSPLIT, $0-32
	MOVQ  state+0(FP), DI
	MOVQ  data+8(FP), SI
	MOVQ  round+16(FP), DX
	MOVQ  live+24(FP), AX
	KMOVW AX, K1
	ROWS(0)
	COLUMNS(Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15)
	ROWS(64)
	COLUMNS(Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23)
	VBROADCASTI32X4 swapped<>(SB), Z24
	SWAPPED(Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15)
	SWAPPED(Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23)
	VMOVDQU64 0(DI), Z0
	VMOVDQU64 64(DI), Z1
	VMOVDQU64 128(DI), Z2
	VMOVDQU64 192(DI), Z3
	VMOVDQU64 256(DI), Z4
	VMOVDQU64 320(DI), Z5
	VMOVDQU64 384(DI), Z6
	VMOVDQU64 448(DI), Z7
	MOVQ $4, CX

sixteen:
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, 0)
	NEXT(Z8, Z9, Z17, Z22)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z9, 1)
	NEXT(Z9, Z10, Z18, Z23)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z10, 2)
	NEXT(Z10, Z11, Z19, Z8)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z11, 3)
	NEXT(Z11, Z12, Z20, Z9)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z12, 4)
	NEXT(Z12, Z13, Z21, Z10)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z13, 5)
	NEXT(Z13, Z14, Z22, Z11)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z14, 6)
	NEXT(Z14, Z15, Z23, Z12)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z15, 7)
	NEXT(Z15, Z16, Z8, Z13)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 8)
	NEXT(Z16, Z17, Z9, Z14)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 9)
	NEXT(Z17, Z18, Z10, Z15)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 10)
	NEXT(Z18, Z19, Z11, Z16)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 11)
	NEXT(Z19, Z20, Z12, Z17)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 12)
	NEXT(Z20, Z21, Z13, Z18)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 13)
	NEXT(Z21, Z22, Z14, Z19)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 14)
	NEXT(Z22, Z23, Z15, Z20)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 15)
	NEXT(Z23, Z8, Z16, Z21)
	ADDQ $128, DX
	DECQ CX
	JNZ  sixteen
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, 0)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z9, 1)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z10, 2)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z11, 3)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z12, 4)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z13, 5)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z14, 6)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z15, 7)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 8)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 9)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 10)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 11)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 12)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 13)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 14)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 15)
	KEEP(Z0, 0)
	KEEP(Z1, 64)
	KEEP(Z2, 128)
	KEEP(Z3, 192)
	KEEP(Z4, 256)
	KEEP(Z5, 320)
	KEEP(Z6, 384)
	KEEP(Z7, 448)
	VZEROUPPER
	RET
