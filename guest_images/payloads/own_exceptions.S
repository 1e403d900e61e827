/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exceptions that L2 takes to its own EL1, from EL1 and from EL0, and returns
 * from: SVC, an undefined instruction, ERET. No kernel is involved but for the
 * step exceptions; each is one step, to the vector or back.
 */
	.include "payload.inc"
	classes	alu, eret, sysreg, system, barrier, svc, undefined, nop

	.equ	EC_SHIFT, 26
	.equ	EC_UNKNOWN, 0

	.text
	range_begin
	nop
	adr	x0, vectors
	msr	vbar_el1, x0
	isb
svc_el1:
	svc	#1
	nop
undefined_el1:
	udf	#0
	nop
	msr	daifset, #2			/* an interrupt would write them, too */
	mov	x0, #SPSR_EL0T
	msr	spsr_el1, x0
	adr	x0, user
	msr	elr_el1, x0
to_el0:
	eret
user:
	nop
svc_el0:
	svc	#2
	nop
undefined_el0:
	udf	#1
	nop
	range_end

	/* Skip an undefined instruction; return behind an SVC, as ELR says. */
	.macro	handler
	mrs	x9, esr_el1
	lsr	x9, x9, #EC_SHIFT
	cmp	x9, #EC_UNKNOWN
	b.ne	1f
	mrs	x9, elr_el1
	add	x9, x9, #4
	msr	elr_el1, x9
1:	eret
	.endm

	.balign	2048
	.globl	vectors
vectors:
	.org	vectors + 0x200
	handler
	.org	vectors + 0x280
	irq_vector
	.org	vectors + 0x400
	handler
	.org	vectors + 0x480
	irq_vector
	.org	vectors + 0x600
