/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * L2 interrupts itself: an SGI to its own CPU (ICC_SGI1R_EL1, trapped and
 * emulated by KVM), which is pending when L2 is entered again. Three of them:
 * with IRQs unmasked, with IRQs masked until later, and two of one INTID at
 * once, which are one.
 */
	.equ	INTERRUPTS, 1			/* always with the handler */
	.include "payload.inc"
	classes	alu, sysreg, system, barrier, load, store, nop

	/* ICC_SGI1R_EL1: Aff3.Aff2.Aff1 0, target list 1, INTID 1 (IHI 0069, 12.2). */
	.equ	SGI_TO_SELF, SGI << 24 | 1

	.macro	count_sgi
	ldr	x2, [x1, #SGIS_SENT]
	add	x2, x2, #1
	str	x2, [x1, #SGIS_SENT]
	.endm

	.text
	range_begin
	nop
	adrp	x1, irq_counters
	mov	x0, #SGI_TO_SELF & 0xffff0000
	add	x0, x0, #1
	count_sgi
sent:
	msr	s3_0_c12_c11_5, x0
	isb
	nop
	msr	daifset, #2
	count_sgi
sent_masked:
	msr	s3_0_c12_c11_5, x0
	isb
	nop
	msr	daifclr, #2
	nop
	msr	daifset, #2
	count_sgi
sent_twice:
	msr	s3_0_c12_c11_5, x0
	msr	s3_0_c12_c11_5, x0
	isb
	msr	daifclr, #2
	nop
	nop
	range_end
