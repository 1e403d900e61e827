/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * L2's own virtual timer has expired before it is turned on. Assembled with
 * INTERRUPTS, the interrupt is taken at the next instruction that allows it;
 * without, it stays masked.
 */
	.include "payload.inc"
	classes	alu, barrier, hvc, nop, sysreg

	.equ	PSCI_VERSION, 0x84000000

	.text
	range_begin
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
	mov	x5, #1
	msr	cntv_cval_el0, xzr
turns_on:
	msr	cntv_ctl_el0, x5
	isb
pending:
	hvc	#0
	nop
	nop
	range_end
