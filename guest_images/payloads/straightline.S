/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plain instructions: ALU, loads and stores, branches of every decodable kind,
 * taken and not taken. None of them leaves L2 by itself, so no kernel can lose
 * a step here unless an asynchronous exception beats the Software Step exception
 * to an executed instruction.
 */
	.include "payload.inc"
	classes	alu, load, store, branch, branch-link, branch-conditional, compare-branch, test-branch, branch-register, nop

	.text
	range_begin
	adrp	x1, data
	mov	x0, #0x1234
	movk	x0, #0x5678, lsl #16
	add	x2, x0, #1
	str	x2, [x1]
	ldr	x3, [x1]
	cmp	x2, x3
	b.ne	wrong		/* not taken */
	b.eq	equal		/* taken */
	nop
equal:
	stp	x0, x2, [x1, #16]
	ldp	x4, x5, [x1, #16]
	eor	x6, x4, x0
	cbnz	x6, wrong	/* not taken */
	cbz	x6, zero	/* taken */
	nop
zero:
	tbnz	x6, #0, wrong	/* not taken */
	tbz	x6, #0, bit_clear	/* taken */
	nop
bit_clear:
	bl	leaf
	adr	x8, leaf
	blr	x8
	adr	x8, over
	br	x8
	nop
over:
	mov	x9, #3
loop:
	subs	x9, x9, #1
	b.ne	loop		/* taken twice, then not */
	strb	w0, [x1, #32]
	ldrb	w10, [x1, #32]
	ldr	x11, literal
	madd	x12, x10, x2, x11
	udiv	x13, x12, x10
	csel	x14, x12, x13, eq
	b	last
wrong:
	nop
last:
	nop
	range_end

leaf:
	add	x7, x7, #1
	ret

	.balign	8
literal:
	.quad	0x0123456789abcdef

	/* A page of its own: TCG would translate the code again after each store beside it. */
	.balign	4096
data:
	.fill	8, 8, 0
