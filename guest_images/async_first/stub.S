/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Makes of a CPU that takes a Software Step exception before a pending interrupt
 * one that takes the interrupt first. The order of the two is not defined by the
 * architecture (DDI 0487, D1.3.5.5), and where they arrive at EL2 they can't be
 * told apart but by their vector: ELR_EL2 is the next PC and SPSR_EL2.SS is 0 in
 * both cases.
 *
 * This page is laid over KVM's own vector page: the first 512 bytes, which are
 * the slots for exceptions taken from EL2 with SP_EL0, where KVM never runs, and
 * the first word of the slot for synchronous exceptions from lower ELs. That
 * word's former content goes to `displaced`; the rest of the slot stays as it
 * is, mitigations included.
 *
 * Defined on the command line:
 *   LIMIT    redirects in a row of the same step
 *   COUNT    a register of EL2 that nobody uses, for how many there were
 *   SGI      send this CPU SGI 0 before each redirect
 *   PENDING  redirect only if a physical interrupt is pending
 */
	.equ	EC_SOFTWARE_STEP, 0x32		/* from a lower EL (DDI 0487, ESR_EL2) */
	.equ	EC_SHIFT, 26
	.equ	ISR_I, 1 << 7
	.equ	SYNCHRONOUS, 0x400
	.equ	IRQ, 0x480

	.text
	.globl	_start
_start:
	stp	x0, x1, [sp, #-16]!
	mrs	x0, esr_el2
	lsr	x0, x0, #EC_SHIFT
	cmp	x0, #EC_SOFTWARE_STEP
	b.ne	pass
#ifdef PENDING
	mrs	x0, isr_el1
	tst	x0, #ISR_I
	b.eq	deliver
#endif
	mrs	x0, COUNT
	cmp	x0, #LIMIT
	b.hs	deliver
	add	x0, x0, #1
	msr	COUNT, x0
#ifdef SGI
	/* INTID 0 to the CPU with affinity 0.0.0.0: Linux' reschedule IPI. */
	mov	x0, #1
	msr	s3_0_c12_c11_5, x0		/* ICC_SGI1R_EL1 */
	isb
#endif
	ldp	x0, x1, [sp], #16
	b	redirect
deliver:
	msr	COUNT, xzr
pass:
	ldp	x0, x1, [sp], #16
	.globl	displaced
displaced:
	nop
	b	_start + SYNCHRONOUS + 4

	/* The truth plugin knows a redirect by this address: qemu_diff/truth/plugin.c. */
	.org	0x180
redirect:
	b	_start + IRQ

	.org	SYNCHRONOUS
	.globl	diversion
diversion:
	b	_start
