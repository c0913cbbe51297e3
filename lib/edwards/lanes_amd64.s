#include "textflag.h"
#include "lanes_amd64.h"

// func supported() bool
//
// CPUID and XGETBV (Intel's manual, volume 1, 15.2): AVX-512 F, DQ, IFMA, BW and VL,
// and an operating system that keeps their registers.
TEXT ·supported(SB), NOSPLIT, $0-1
	MOVB   $0, ret+0(FP)
	MOVL   $0, AX
	MOVL   $0, CX
	CPUID
	CMPL   AX, $7
	JB     no
	MOVL   $1, AX
	MOVL   $0, CX
	CPUID
	ANDL   $(1<<27), CX
	JZ     no
	MOVL   $0, CX
	XGETBV
	ANDL   $0xe6, AX
	CMPL   AX, $0xe6
	JNE    no
	MOVL   $7, AX
	MOVL   $0, CX
	CPUID
	MOVL   $(1<<16 | 1<<17 | 1<<21 | 1<<30 | 1<<31), DX
	ANDL   DX, BX
	CMPL   BX, DX
	JNE    no
	MOVB   $1, ret+0(FP)

no:
	RET

// func mulLanes(o, a, b *element)
TEXT ·mulLanes(SB), NOSPLIT, $0-24
	MOVQ o+0(FP), DI
	MOVQ a+8(FP), SI
	MOVQ b+16(FP), BX
	CONSTANTS
	LOAD(0, SI, Z0, Z1, Z2, Z3, Z4)
	LOAD(0, BX, Z5, Z6, Z7, Z8, Z9)
	MUL(Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 0, DI)
	VZEROUPPER
	RET

// func squareLanes(o, a *element, n int)
TEXT ·squareLanes(SB), NOSPLIT, $0-24
	MOVQ o+0(FP), DI
	MOVQ a+8(FP), SI
	MOVQ n+16(FP), CX
	CONSTANTS
	LOAD(0, SI, Z0, Z1, Z2, Z3, Z4)

loop:
	SQUARE(Z0, Z1, Z2, Z3, Z4)
	DECQ CX
	JNZ  loop
	STORE(Z0, Z1, Z2, Z3, Z4, 0, DI)
	VZEROUPPER
	RET

// func squareTwoLanes(o, a *elements, n int)
//
// Of two chains of squarings one starts what the other waits for.
TEXT ·squareTwoLanes(SB), NOSPLIT, $0-24
	MOVQ o+0(FP), DI
	MOVQ a+8(FP), SI
	MOVQ n+16(FP), CX
	CONSTANTS

both:
	LOAD(0, SI, Z0, Z1, Z2, Z3, Z4)
	SQUARE(Z0, Z1, Z2, Z3, Z4)
	STORE(Z0, Z1, Z2, Z3, Z4, 0, DI)
	LOAD(320, SI, Z0, Z1, Z2, Z3, Z4)
	SQUARE(Z0, Z1, Z2, Z3, Z4)
	STORE(Z0, Z1, Z2, Z3, Z4, 320, DI)
	MOVQ DI, SI
	DECQ CX
	JNZ  both
	VZEROUPPER
	RET

// func addLanes(o, a, b *element)
TEXT ·addLanes(SB), NOSPLIT, $0-24
	MOVQ o+0(FP), DI
	MOVQ a+8(FP), SI
	MOVQ b+16(FP), BX
	CONSTANTS
	LOAD(0, SI, Z0, Z1, Z2, Z3, Z4)
	LOAD(0, BX, Z5, Z6, Z7, Z8, Z9)
	ADD(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	STORE(Z0, Z1, Z2, Z3, Z4, 0, DI)
	VZEROUPPER
	RET

// func subLanes(o, a, b *element)
TEXT ·subLanes(SB), NOSPLIT, $0-24
	MOVQ o+0(FP), DI
	MOVQ a+8(FP), SI
	MOVQ b+16(FP), BX
	CONSTANTS
	LOAD(0, SI, Z0, Z1, Z2, Z3, Z4)
	LOAD(0, BX, Z5, Z6, Z7, Z8, Z9)
	SUB(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	STORE(Z0, Z1, Z2, Z3, Z4, 0, DI)
	VZEROUPPER
	RET

#define CHAIN(a, b) \
	VPSRLQ $51, a, Z5; \
	VPANDQ Z31, a, a; \
	VPADDQ Z5, b, b

// func reduceLanes(o, a *element)
//
// It is lane for all lanes: after the first round of carries the number is below 2^255
// + 2^12, and Z5 is whether it is p or more.
TEXT ·reduceLanes(SB), NOSPLIT, $0-16
	MOVQ o+0(FP), DI
	MOVQ a+8(FP), SI
	CONSTANTS
	LOAD(0, SI, Z0, Z1, Z2, Z3, Z4)
	CHAIN(Z0, Z1)
	CHAIN(Z1, Z2)
	CHAIN(Z2, Z3)
	CHAIN(Z3, Z4)
	VPSRLQ      $51, Z4, Z5
	VPANDQ      Z31, Z4, Z4
	VPMADD52LUQ Z5, Z30, Z0
	CHAIN(Z0, Z1)
	VPADDQ      Z0, Z30, Z5
	VPSRLQ      $51, Z5, Z5
	VPADDQ      Z1, Z5, Z5
	VPSRLQ      $51, Z5, Z5
	VPADDQ      Z2, Z5, Z5
	VPSRLQ      $51, Z5, Z5
	VPADDQ      Z3, Z5, Z5
	VPSRLQ      $51, Z5, Z5
	VPADDQ      Z4, Z5, Z5
	VPSRLQ      $51, Z5, Z5
	VPMADD52LUQ Z5, Z30, Z0
	CHAIN(Z0, Z1)
	CHAIN(Z1, Z2)
	CHAIN(Z2, Z3)
	CHAIN(Z3, Z4)
	VPANDQ      Z31, Z4, Z4
	STORE(Z0, Z1, Z2, Z3, Z4, 0, DI)
	VZEROUPPER
	RET

// A point in memory: X at 0, Y at 320, Z at 640, T at 960.
// A scratch: four elements at 0, 320, 640, 960.

// LAST makes the point at DI of E (at 960 of the scratch R8), F (at 0), G (at 640)
// and H (at 320): (EF, GH, FG, EH).
#define LAST \
	LOAD(0, R8, Z0, Z1, Z2, Z3, Z4); \
	LOAD(640, R8, Z5, Z6, Z7, Z8, Z9); \
	MUL(Z10, Z11, Z12, Z13, Z14); \
	STORE(Z10, Z11, Z12, Z13, Z14, 640, DI); \
	LOAD(960, R8, Z5, Z6, Z7, Z8, Z9); \
	MUL(Z10, Z11, Z12, Z13, Z14); \
	STORE(Z10, Z11, Z12, Z13, Z14, 0, DI); \
	LOAD(320, R8, Z0, Z1, Z2, Z3, Z4); \
	MUL(Z10, Z11, Z12, Z13, Z14); \
	STORE(Z10, Z11, Z12, Z13, Z14, 960, DI); \
	LOAD(640, R8, Z5, Z6, Z7, Z8, Z9); \
	MUL(Z10, Z11, Z12, Z13, Z14); \
	STORE(Z10, Z11, Z12, Z13, Z14, 320, DI)

// SIDES makes E = B - A and H = B + A of A (at 0 of the scratch) and B (in Z10-14).
#define SIDES \
	LOAD(0, R8, Z0, Z1, Z2, Z3, Z4); \
	SUB(Z10, Z11, Z12, Z13, Z14, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9); \
	CARRY(Z5, Z6, Z7, Z8, Z9, Z15, Z16, Z17, Z18, Z19, Z5, Z6, Z7, Z8, Z9); \
	STORE(Z5, Z6, Z7, Z8, Z9, 960, R8); \
	ADD(Z10, Z11, Z12, Z13, Z14, Z0, Z1, Z2, Z3, Z4, Z10, Z11, Z12, Z13, Z14); \
	CARRY(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19, Z10, Z11, Z12, Z13, Z14); \
	STORE(Z10, Z11, Z12, Z13, Z14, 320, R8)

// MIDDLE makes F = 2D - C and G = 2D + C of C (in Z10-14) and D (in Z0-4): limbs
// below 2^54 before the carry.
#define MIDDLE \
	ADD(Z0, Z1, Z2, Z3, Z4, Z0, Z1, Z2, Z3, Z4, Z0, Z1, Z2, Z3, Z4); \
	SUB(Z0, Z1, Z2, Z3, Z4, Z10, Z11, Z12, Z13, Z14, Z5, Z6, Z7, Z8, Z9); \
	CARRY(Z5, Z6, Z7, Z8, Z9, Z15, Z16, Z17, Z18, Z19, Z5, Z6, Z7, Z8, Z9); \
	STORE(Z5, Z6, Z7, Z8, Z9, 0, R8); \
	ADD(Z10, Z11, Z12, Z13, Z14, Z0, Z1, Z2, Z3, Z4, Z10, Z11, Z12, Z13, Z14); \
	CARRY(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19, Z10, Z11, Z12, Z13, Z14); \
	STORE(Z10, Z11, Z12, Z13, Z14, 640, R8)

#define ADDRESS(i, r) \
	MOVL i*4(DX), r; \
	ANDL $~1, r; \
	SHLQ $6, r; \
	ADDQ SI, r

#define SWAP(a, b, t) \
	VMOVDQA64 a, t; \
	VMOVDQA64 b, K1, a; \
	VMOVDQA64 t, K1, b

// FETCH reads eight rows of 16 words and turns them: y-x is in Z8-12 then, y+x in
// Z13-15, Z0, Z1, and 2dxy in Z2-6. Of a point that is taken off (K1) the first two are
// exchanged; the third must be negated.
#define FETCH \
	ADDRESS(0, R9); \
	ADDRESS(1, R10); \
	ADDRESS(2, R11); \
	ADDRESS(3, R12); \
	ADDRESS(4, R13); \
	ADDRESS(5, AX); \
	ADDRESS(6, BX); \
	ADDRESS(7, R15); \
	VMOVDQU64 0(R9), Z0; \
	VMOVDQU64 0(R10), Z1; \
	VMOVDQU64 0(R11), Z2; \
	VMOVDQU64 0(R12), Z3; \
	VMOVDQU64 0(R13), Z4; \
	VMOVDQU64 0(AX), Z5; \
	VMOVDQU64 0(BX), Z6; \
	VMOVDQU64 0(R15), Z7; \
	COLUMNS(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15); \
	VMOVDQU64 64(R9), Z16; \
	VMOVDQU64 64(R10), Z17; \
	VMOVDQU64 64(R11), Z18; \
	VMOVDQU64 64(R12), Z19; \
	VMOVDQU64 64(R13), Z20; \
	VMOVDQU64 64(AX), Z21; \
	VMOVDQU64 64(BX), Z22; \
	VMOVDQU64 64(R15), Z23; \
	COLUMNS(Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7); \
	VPMOVZXDQ    0(DX), Z24; \
	VPSLLQ       $63, Z24, Z24; \
	VPMOVQ2M     Z24, K1; \
	SWAP(Z8, Z13, Z25); \
	SWAP(Z9, Z14, Z26); \
	SWAP(Z10, Z15, Z27); \
	SWAP(Z11, Z0, Z25); \
	SWAP(Z12, Z1, Z26)

// func sumLanes(p *lanes, rows *Point, list *uint32, steps int, scratch *lanes)
//
// The formulas are madd-2008-hwcd-3 of the Explicit-Formulas Database, complete on
// this curve.
TEXT ·sumLanes(SB), NOSPLIT, $0-40
	MOVQ p+0(FP), DI
	MOVQ rows+8(FP), SI
	MOVQ list+16(FP), DX
	MOVQ steps+24(FP), CX
	MOVQ scratch+32(FP), R8
	CONSTANTS

step:
	FETCH

	// 2p less a tight element has limbs below 2^52.
	VPSUBQ Z2, Z28, K1, Z2
	VPSUBQ Z3, Z29, K1, Z3
	VPSUBQ Z4, Z29, K1, Z4
	VPSUBQ Z5, Z29, K1, Z5
	VPSUBQ Z6, Z29, K1, Z6
	STORE(Z8, Z9, Z10, Z11, Z12, 0, R8)
	STORE(Z13, Z14, Z15, Z0, Z1, 320, R8)
	STORE(Z2, Z3, Z4, Z5, Z6, 640, R8)

	// A = (Y-X)(y-x), B = (Y+X)(y+x)
	LOAD(320, DI, Z0, Z1, Z2, Z3, Z4)
	LOAD(0, DI, Z5, Z6, Z7, Z8, Z9)
	ADD(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14)
	CARRY(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19, Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 960, R8)
	SUB(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z0, Z1, Z2, Z3, Z4, Z15, Z16, Z17, Z18, Z19, Z0, Z1, Z2, Z3, Z4)
	LOAD(0, R8, Z5, Z6, Z7, Z8, Z9)
	MUL(Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 0, R8)
	LOAD(960, R8, Z0, Z1, Z2, Z3, Z4)
	LOAD(320, R8, Z5, Z6, Z7, Z8, Z9)
	MUL(Z10, Z11, Z12, Z13, Z14)
	SIDES

	// C = 2dxy T, D = Z
	LOAD(640, R8, Z0, Z1, Z2, Z3, Z4)
	LOAD(960, DI, Z5, Z6, Z7, Z8, Z9)
	MUL(Z10, Z11, Z12, Z13, Z14)
	LOAD(640, DI, Z0, Z1, Z2, Z3, Z4)
	MIDDLE
	LAST
	ADDQ $32, DX
	DECQ CX
	JNZ  step
	VZEROUPPER
	RET

// func firstLanes(p *lanes, rows *Point, list *uint32)
//
// X = 4x, Y = 4y, Z = 4, T = 2x 2y: doubled sums of tight elements are tight after a
// carry.
TEXT ·firstLanes(SB), NOSPLIT, $0-24
	MOVQ p+0(FP), DI
	MOVQ rows+8(FP), SI
	MOVQ list+16(FP), DX
	CONSTANTS
	FETCH
	SUB(Z13, Z14, Z15, Z0, Z1, Z8, Z9, Z10, Z11, Z12, Z16, Z17, Z18, Z19, Z20)
	ADD(Z13, Z14, Z15, Z0, Z1, Z8, Z9, Z10, Z11, Z12, Z21, Z22, Z23, Z24, Z25)
	CARRY(Z16, Z17, Z18, Z19, Z20, Z10, Z11, Z12, Z13, Z14, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z21, Z22, Z23, Z24, Z25, Z10, Z11, Z12, Z13, Z14, Z5, Z6, Z7, Z8, Z9)
	MUL(Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 960, DI)
	ADD(Z0, Z1, Z2, Z3, Z4, Z0, Z1, Z2, Z3, Z4, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z0, Z1, Z2, Z3, Z4, Z10, Z11, Z12, Z13, Z14, Z0, Z1, Z2, Z3, Z4)
	STORE(Z0, Z1, Z2, Z3, Z4, 0, DI)
	ADD(Z5, Z6, Z7, Z8, Z9, Z5, Z6, Z7, Z8, Z9, Z5, Z6, Z7, Z8, Z9)
	CARRY(Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z5, Z6, Z7, Z8, Z9)
	STORE(Z5, Z6, Z7, Z8, Z9, 320, DI)
	MOVQ $4, AX
	VPBROADCASTQ AX, Z0
	ZERO(Z1)
	ZERO(Z2)
	ZERO(Z3)
	ZERO(Z4)
	STORE(Z0, Z1, Z2, Z3, Z4, 640, DI)
	VZEROUPPER
	RET

// func addPointLanes(p, q *lanes, d2 *element, scratch *lanes)
//
// The formulas are add-2008-hwcd-3 of the Explicit-Formulas Database, complete on
// this curve.
TEXT ·addPointLanes(SB), NOSPLIT, $0-32
	MOVQ p+0(FP), DI
	MOVQ q+8(FP), SI
	MOVQ d2+16(FP), BX
	MOVQ scratch+24(FP), R8
	CONSTANTS

	// A = (Y1-X1)(Y2-X2), B = (Y1+X1)(Y2+X2)
	LOAD(320, DI, Z0, Z1, Z2, Z3, Z4)
	LOAD(0, DI, Z5, Z6, Z7, Z8, Z9)
	ADD(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14)
	CARRY(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19, Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 320, R8)
	SUB(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z0, Z1, Z2, Z3, Z4, Z15, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24)
	LOAD(320, SI, Z0, Z1, Z2, Z3, Z4)
	LOAD(0, SI, Z5, Z6, Z7, Z8, Z9)
	ADD(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14)
	CARRY(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19, Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 640, R8)
	SUB(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z0, Z1, Z2, Z3, Z4, Z15, Z16, Z17, Z18, Z19, Z0, Z1, Z2, Z3, Z4)
	VMOVDQA64 Z20, Z5
	VMOVDQA64 Z21, Z6
	VMOVDQA64 Z22, Z7
	VMOVDQA64 Z23, Z8
	VMOVDQA64 Z24, Z9
	MUL(Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 0, R8)
	LOAD(320, R8, Z0, Z1, Z2, Z3, Z4)
	LOAD(640, R8, Z5, Z6, Z7, Z8, Z9)
	MUL(Z10, Z11, Z12, Z13, Z14)
	SIDES

	// C = 2d T1 T2, D = Z1 Z2
	LOAD(960, DI, Z0, Z1, Z2, Z3, Z4)
	LOAD(960, SI, Z5, Z6, Z7, Z8, Z9)
	MUL(Z0, Z1, Z2, Z3, Z4)
	LOAD(0, BX, Z5, Z6, Z7, Z8, Z9)
	MUL(Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 640, R8)
	LOAD(640, DI, Z0, Z1, Z2, Z3, Z4)
	LOAD(640, SI, Z5, Z6, Z7, Z8, Z9)
	MUL(Z0, Z1, Z2, Z3, Z4)
	LOAD(640, R8, Z10, Z11, Z12, Z13, Z14)
	MIDDLE
	LAST
	VZEROUPPER
	RET

// func doubleLanes(p *lanes, n int, scratch *lanes)
//
// The formulas are dbl-2008-hwcd of the Explicit-Formulas Database with E, F, G and
// H all negated: G = A-B, H = A+B, E = H-(X+Y)^2, F = 2Z^2+G. T, which no doubling
// reads, is made with every point, since LAST does.
TEXT ·doubleLanes(SB), NOSPLIT, $0-24
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ scratch+16(FP), R8
	CONSTANTS

again:
	LOAD(0, DI, Z0, Z1, Z2, Z3, Z4)
	SQUARE(Z5, Z6, Z7, Z8, Z9)
	STORE(Z5, Z6, Z7, Z8, Z9, 0, R8)
	LOAD(320, DI, Z0, Z1, Z2, Z3, Z4)
	SQUARE(Z5, Z6, Z7, Z8, Z9)
	LOAD(0, R8, Z0, Z1, Z2, Z3, Z4)
	SUB(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14)
	CARRY(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19, Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 640, R8)
	ADD(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14)
	CARRY(Z10, Z11, Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19, Z10, Z11, Z12, Z13, Z14)
	STORE(Z10, Z11, Z12, Z13, Z14, 320, R8)
	LOAD(640, DI, Z0, Z1, Z2, Z3, Z4)
	SQUARE(Z5, Z6, Z7, Z8, Z9)
	LOAD(640, R8, Z10, Z11, Z12, Z13, Z14)
	ADD(Z5, Z6, Z7, Z8, Z9, Z5, Z6, Z7, Z8, Z9, Z5, Z6, Z7, Z8, Z9)
	ADD(Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z5, Z6, Z7, Z8, Z9)
	CARRY(Z5, Z6, Z7, Z8, Z9, Z15, Z16, Z17, Z18, Z19, Z5, Z6, Z7, Z8, Z9)
	STORE(Z5, Z6, Z7, Z8, Z9, 0, R8)
	LOAD(0, DI, Z0, Z1, Z2, Z3, Z4)
	LOAD(320, DI, Z5, Z6, Z7, Z8, Z9)
	ADD(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z0, Z1, Z2, Z3, Z4, Z15, Z16, Z17, Z18, Z19, Z0, Z1, Z2, Z3, Z4)
	SQUARE(Z5, Z6, Z7, Z8, Z9)
	LOAD(320, R8, Z0, Z1, Z2, Z3, Z4)
	SUB(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z0, Z1, Z2, Z3, Z4)
	CARRY(Z0, Z1, Z2, Z3, Z4, Z15, Z16, Z17, Z18, Z19, Z0, Z1, Z2, Z3, Z4)
	STORE(Z0, Z1, Z2, Z3, Z4, 960, R8)
	LAST
	DECQ CX
	JNZ  again
	VZEROUPPER
	RET
