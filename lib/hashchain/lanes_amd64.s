#include "textflag.h"

// SHA-256 (FIPS 180-4) of 32 bytes is one block whose last eight words never change:
// 0x80000000, six zeros, and 256, the length in bits. So of the first four groups of
// rounds two add constants alone, and the first steps of the message schedule are
// shorter. Between the steps of a chain words stay words: bytes are swapped only where
// they are stored.
//
// One chain waits for SHA256RNDS2 more than half of the time; the rounds of several
// chains fill that time. Each has two registers of state and its newest four words of
// the schedule; the other twelve lie on the stack, in slots of four words.

#define K X15
#define T X13
#define U X14

// Four rounds of a chain: a is ABEF, c is CDGH, X0 what the rounds add.
#define ROUNDS(a, c) \
	SHA256RNDS2 X0, a, c; \
	VPSHUFD $0x0e, X0, X0; \
	SHA256RNDS2 X0, c, a

// Four rounds with the words of a slot.
#define ROUND(w, a, c) \
	VPADDD w, K, X0; \
	ROUNDS(a, c)

// Four rounds with words that never change.
#define FIXED(k, a, c) \
	VMOVDQU k, X0; \
	ROUNDS(a, c)

// The words after w0 to w3, of which n holds w3, into w0 and n.
#define NEXT(w0, w1, w2, n) \
	VMOVDQU w0, T; \
	VMOVDQU w1, U; \
	SHA256MSG1 U, T; \
	VPALIGNR $4, w2, n, U; \
	VPADDD U, T, T; \
	SHA256MSG2 n, T; \
	VMOVDQU T, w0; \
	VMOVDQA T, n

// The same for the first four, with the words 8 to 15 that never change.
#define NEXT0(w0, w1, n) \
	VMOVDQU w0, T; \
	VMOVDQU w1, U; \
	SHA256MSG1 U, T; \
	VMOVDQU last<>(SB), n; \
	SHA256MSG2 n, T; \
	VMOVDQU T, w0; \
	VMOVDQA T, n

#define NEXT1(w1, n) \
	VMOVDQU w1, T; \
	VMOVDQU first<>(SB), U; \
	SHA256MSG1 U, T; \
	VPALIGNR $4, last<>(SB), n, U; \
	VPADDD U, T, T; \
	SHA256MSG2 n, T; \
	VMOVDQU T, w1; \
	VMOVDQA T, n

#define NEXT2(w0, w2, n) \
	VPALIGNR $4, w0, n, U; \
	VPADDD first<>(SB), U, T; \
	SHA256MSG2 n, T; \
	VMOVDQU T, w2; \
	VMOVDQA T, n

#define NEXT3(w0, w1, w3, n) \
	VMOVDQU last<>(SB), T; \
	VMOVDQU w0, U; \
	SHA256MSG1 U, T; \
	VPALIGNR $4, w1, n, U; \
	VPADDD U, T, T; \
	SHA256MSG2 n, T; \
	VMOVDQU T, w3; \
	VMOVDQA T, n

#define KEY(i) VMOVDQU keys<>+(i*16)(SB), K;

// What each chain does in each group of four rounds: its slots begin at o, a and c are
// its state, n its newest words, p its place in memory.
#define GROUP0(o, a, c, n, p) ROUND(o(SP), a, c); NEXT0(o(SP), o+16(SP), n);
#define GROUP1(o, a, c, n, p) ROUND(o+16(SP), a, c); NEXT1(o+16(SP), n);
#define GROUP2(o, a, c, n, p) FIXED(fixed<>(SB), a, c); NEXT2(o(SP), o+32(SP), n);
#define GROUP3(o, a, c, n, p) FIXED(fixed<>+16(SB), a, c); NEXT3(o(SP), o+16(SP), o+48(SP), n);
#define GROUP4(o, a, c, n, p) ROUND(o(SP), a, c); NEXT(o(SP), o+16(SP), o+32(SP), n);
#define GROUP5(o, a, c, n, p) ROUND(o+16(SP), a, c); NEXT(o+16(SP), o+32(SP), o+48(SP), n);
#define GROUP6(o, a, c, n, p) ROUND(o+32(SP), a, c); NEXT(o+32(SP), o+48(SP), o(SP), n);
#define GROUP7(o, a, c, n, p) ROUND(o+48(SP), a, c); NEXT(o+48(SP), o(SP), o+16(SP), n);
#define LAST0(o, a, c, n, p) ROUND(o(SP), a, c);
#define LAST1(o, a, c, n, p) ROUND(o+16(SP), a, c);
#define LAST2(o, a, c, n, p) ROUND(o+32(SP), a, c);
#define LAST3(o, a, c, n, p) ROUND(o+48(SP), a, c);

// The bytes at p as words in two slots.
#define READ(o, a, c, n, p) \
	VMOVDQU (p), T; \
	VPSHUFB swap<>(SB), T, T; \
	VMOVDQU T, o(SP); \
	VMOVDQU 16(p), T; \
	VPSHUFB swap<>(SB), T, T; \
	VMOVDQU T, o+16(SP);

// The state before the first round.
#define BEGIN(o, a, c, n, p) \
	VMOVDQU start<>(SB), a; \
	VMOVDQU start<>+16(SB), c;

// The hash, as words into the slots of the next step and as bytes to the next place.
#define WRITE(o, a, c, n, p) \
	VPADDD start<>(SB), a, a; \
	VPADDD start<>+16(SB), c, c; \
	VPSHUFD $0x1b, a, a; \
	VPSHUFD $0x1b, c, c; \
	VPUNPCKLQDQ c, a, T; \
	VPUNPCKHQDQ c, a, U; \
	VMOVDQU T, o(SP); \
	VMOVDQU U, o+16(SP); \
	ADDQ DX, p; \
	VPSHUFB swap<>(SB), T, T; \
	VPSHUFB swap<>(SB), U, U; \
	VMOVDQU T, (p); \
	VMOVDQU U, 16(p);

// The chains of each function.
#define ONE(do) do(0, X1, X2, X9, R8)
#define TWO(do) ONE(do) do(64, X3, X4, X10, R9)
#define THREE(do) TWO(do) do(128, X5, X6, X11, R10)
#define FOUR(do) THREE(do) do(192, X7, X8, X12, R11)

// One step of all chains.
#define STEP(all) \
	all(BEGIN) \
	KEY(0) all(GROUP0) \
	KEY(1) all(GROUP1) \
	all(GROUP2) \
	all(GROUP3) \
	KEY(4) all(GROUP4) \
	KEY(5) all(GROUP5) \
	KEY(6) all(GROUP6) \
	KEY(7) all(GROUP7) \
	KEY(8) all(GROUP4) \
	KEY(9) all(GROUP5) \
	KEY(10) all(GROUP6) \
	KEY(11) all(GROUP7) \
	KEY(12) all(LAST0) \
	KEY(13) all(LAST1) \
	KEY(14) all(LAST2) \
	KEY(15) all(LAST3) \
	all(WRITE)

// func lanes1(p *top.ID, n, stride int)
TEXT ·lanes1(SB), NOSPLIT, $64-24
	MOVQ p+0(FP), R8
	MOVQ n+8(FP), CX
	MOVQ stride+16(FP), DX
	ONE(READ)

step:
	STEP(ONE)
	DECQ CX
	JNZ  step
	RET

// func lanes2(p *[2]*top.ID, n, stride int)
TEXT ·lanes2(SB), NOSPLIT, $128-24
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ stride+16(FP), DX
	MOVQ 0(DI), R8
	MOVQ 8(DI), R9
	TWO(READ)

step:
	STEP(TWO)
	DECQ CX
	JNZ  step
	RET

// func lanes3(p *[3]*top.ID, n, stride int)
TEXT ·lanes3(SB), NOSPLIT, $192-24
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ stride+16(FP), DX
	MOVQ 0(DI), R8
	MOVQ 8(DI), R9
	MOVQ 16(DI), R10
	THREE(READ)

step:
	STEP(THREE)
	DECQ CX
	JNZ  step
	RET

// func lanes4(p *[4]*top.ID, n, stride int)
TEXT ·lanes4(SB), NOSPLIT, $256-24
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ stride+16(FP), DX
	MOVQ 0(DI), R8
	MOVQ 8(DI), R9
	MOVQ 16(DI), R10
	MOVQ 24(DI), R11
	FOUR(READ)

step:
	STEP(FOUR)
	DECQ CX
	JNZ  step
	RET

// func cpuid(leaf, sub uint32) (a, b uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-16
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL BX, b+12(FP)
	RET

// The constants of all rounds.
DATA keys<>+0x00(SB)/8, $0x71374491428a2f98
DATA keys<>+0x08(SB)/8, $0xe9b5dba5b5c0fbcf
DATA keys<>+0x10(SB)/8, $0x59f111f13956c25b
DATA keys<>+0x18(SB)/8, $0xab1c5ed5923f82a4
DATA keys<>+0x20(SB)/8, $0x12835b01d807aa98
DATA keys<>+0x28(SB)/8, $0x550c7dc3243185be
DATA keys<>+0x30(SB)/8, $0x80deb1fe72be5d74
DATA keys<>+0x38(SB)/8, $0xc19bf1749bdc06a7
DATA keys<>+0x40(SB)/8, $0xefbe4786e49b69c1
DATA keys<>+0x48(SB)/8, $0x240ca1cc0fc19dc6
DATA keys<>+0x50(SB)/8, $0x4a7484aa2de92c6f
DATA keys<>+0x58(SB)/8, $0x76f988da5cb0a9dc
DATA keys<>+0x60(SB)/8, $0xa831c66d983e5152
DATA keys<>+0x68(SB)/8, $0xbf597fc7b00327c8
DATA keys<>+0x70(SB)/8, $0xd5a79147c6e00bf3
DATA keys<>+0x78(SB)/8, $0x1429296706ca6351
DATA keys<>+0x80(SB)/8, $0x2e1b213827b70a85
DATA keys<>+0x88(SB)/8, $0x53380d134d2c6dfc
DATA keys<>+0x90(SB)/8, $0x766a0abb650a7354
DATA keys<>+0x98(SB)/8, $0x92722c8581c2c92e
DATA keys<>+0xa0(SB)/8, $0xa81a664ba2bfe8a1
DATA keys<>+0xa8(SB)/8, $0xc76c51a3c24b8b70
DATA keys<>+0xb0(SB)/8, $0xd6990624d192e819
DATA keys<>+0xb8(SB)/8, $0x106aa070f40e3585
DATA keys<>+0xc0(SB)/8, $0x1e376c0819a4c116
DATA keys<>+0xc8(SB)/8, $0x34b0bcb52748774c
DATA keys<>+0xd0(SB)/8, $0x4ed8aa4a391c0cb3
DATA keys<>+0xd8(SB)/8, $0x682e6ff35b9cca4f
DATA keys<>+0xe0(SB)/8, $0x78a5636f748f82ee
DATA keys<>+0xe8(SB)/8, $0x8cc7020884c87814
DATA keys<>+0xf0(SB)/8, $0xa4506ceb90befffa
DATA keys<>+0xf8(SB)/8, $0xc67178f2bef9a3f7
GLOBL keys<>(SB), RODATA|NOPTR, $256

// Those of rounds 8 to 15 with the words that never change added.
DATA fixed<>+0x00(SB)/8, $0x12835b015807aa98
DATA fixed<>+0x08(SB)/8, $0x550c7dc3243185be
DATA fixed<>+0x10(SB)/8, $0x80deb1fe72be5d74
DATA fixed<>+0x18(SB)/8, $0xc19bf2749bdc06a7
GLOBL fixed<>(SB), RODATA|NOPTR, $32

// The words 8 to 11, and 12 to 15.
DATA first<>+0x00(SB)/8, $0x0000000080000000
DATA first<>+0x08(SB)/8, $0x0000000000000000
GLOBL first<>(SB), RODATA|NOPTR, $16

DATA last<>+0x00(SB)/8, $0x0000000000000000
DATA last<>+0x08(SB)/8, $0x0000010000000000
GLOBL last<>(SB), RODATA|NOPTR, $16

// The state before the first round: F E B A, H G D C.
DATA start<>+0x00(SB)/8, $0x510e527f9b05688c
DATA start<>+0x08(SB)/8, $0x6a09e667bb67ae85
DATA start<>+0x10(SB)/8, $0x1f83d9ab5be0cd19
DATA start<>+0x18(SB)/8, $0x3c6ef372a54ff53a
GLOBL start<>(SB), RODATA|NOPTR, $32

// The order of bytes that makes a word of the other end.
DATA swap<>+0x00(SB)/8, $0x0405060700010203
DATA swap<>+0x08(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $16
