/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a TCG plugin sees of a vCPU that is entered in each software step state,
 * on bare hardware without any kernel: this program is EL2, and enters EL1 code
 * by itself. The outcome is known by the architecture (DDI 0487, D2.12): Inactive
 * runs on, Active-not-pending runs exactly one instruction, Active-pending none.
 * Whatever else a plugin records is a phantom. qemu_diff/truth/selftest.py holds
 * the same schedule.
 */
	.equ	HCR_RW, 1 << 31
	.equ	MDCR_TDE, 1 << 8
	.equ	MDSCR_SS, 1 << 0
	.equ	SPSR_EL1H_MASKED, 0x3c5
	.equ	SPSR_SS, 1 << 21
	.equ	PSCI_SYSTEM_OFF, 0x84000008

	/* Enter EL1 at \target; the vector comes back to the next line. */
	.macro	enter target, mdscr, spsr_ss
	mov	x0, #\mdscr
	msr	mdscr_el1, x0
	ldr	x0, =(SPSR_EL1H_MASKED | \spsr_ss)
	msr	spsr_el2, x0
	ldr	x0, =\target
	msr	elr_el2, x0
	adr	x20, 9f
	isb
	eret
9:
	.endm

	.text
	.globl	_start
_start:
	adr	x0, vectors
	msr	vbar_el2, x0
	ldr	x0, =HCR_RW
	msr	hcr_el2, x0
	mov	x0, #MDCR_TDE
	msr	mdcr_el2, x0
	msr	oslar_el1, xzr
	isb

	enter	inactive, 0, 0
	enter	fresh_0, MDSCR_SS, 0		/* never translated before */
	enter	fresh_0, MDSCR_SS, SPSR_SS
	enter	fresh_0, MDSCR_SS, 0		/* translated as both */
	enter	fresh_1, MDSCR_SS, SPSR_SS
	enter	fresh_1, MDSCR_SS, 0
	enter	inactive, 0, 0
	enter	fresh_1, MDSCR_SS, 0
	enter	fresh_0, MDSCR_SS, SPSR_SS

	ldr	w0, =PSCI_SYSTEM_OFF
	smc	#0
	b	.

	.balign	2048
vectors:
	.rept	16
	.balign	128
	br	x20
	.endr

	.section .l2, "ax"
	.globl	inactive, fresh_0, fresh_1
inactive:
	nop
	hvc	#0
fresh_0:
	nop
	hvc	#0
fresh_1:
	nop
	hvc	#0
