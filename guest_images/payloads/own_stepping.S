/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * L2 single-steps its own EL0: MDSCR_EL1.SS, and a handler at EL1 that takes the
 * Software Step exceptions (DDI 0487, D2.12), counts them in X20, and checks of
 * each that exactly one instruction was executed: ELR_EL1 is 4 after the one
 * before (X21), SPSR_EL1.SS is 0. X22 counts what was not so. EL0 ends with SVC.
 *
 * X23 holds the address of a device that only user space serves: a store there
 * lets user space in, in the middle of EL0's code and at the end. Where user space
 * has stepped L2 meanwhile, it sets X21 to the PC.
 */
	.include "payload.inc"
	classes	alu, eret, sysreg, system, barrier, store, nop

	.equ	NOBODY, 0x09000000
	.equ	MDSCR_SS, 1 << 0
	.equ	SPSR_SS, 1 << 21
	.equ	EC_SHIFT, 26
	.equ	EC_SOFTWARE_STEP, 0x32

	.text
	range_begin
	nop
	movz	x23, #(NOBODY >> 16), lsl #16
	mov	x20, xzr
	mov	x22, xzr
	adr	x0, vectors
	msr	vbar_el1, x0
	msr	oslar_el1, xzr
	mov	x0, #MDSCR_SS
	msr	mdscr_el1, x0
	msr	daifset, #2			/* an interrupt would write them, too */
	mov	x0, #SPSR_EL0T
	orr	x0, x0, #SPSR_SS
	msr	spsr_el1, x0
	adr	x21, user
	msr	elr_el1, x21
	isb
to_el0:
	eret
done:
	msr	mdscr_el1, xzr
	isb
	str	w20, [x23, #8]
	nop
	range_end

user:
	nop
	add	x1, x1, #1
	nop
middle:
	str	w20, [x23]
	add	x1, x1, #2
	nop
resumed:
	add	x1, x1, #3
	nop
	add	x1, x1, #4
end_of_user:
	svc	#0

	.balign	2048
	.globl	vectors
vectors:
	.org	vectors + 0x280
	irq_vector
	.org	vectors + 0x400
	mrs	x9, esr_el1
	lsr	x9, x9, #EC_SHIFT
	cmp	x9, #EC_SOFTWARE_STEP
	b.ne	done_from_el0
	add	x20, x20, #1
	mrs	x9, elr_el1
	add	x21, x21, #4
	cmp	x9, x21
	cinc	x22, x22, ne
	mov	x21, x9
	mrs	x9, spsr_el1
	tst	x9, #SPSR_SS
	cinc	x22, x22, ne
	orr	x9, x9, #SPSR_SS
	msr	spsr_el1, x9
	eret
done_from_el0:
	b	done
	.org	vectors + 0x480
	irq_vector
	.org	vectors + 0x600
