/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HVC that ends in user space: PSCI SYSTEM_OFF and SYSTEM_RESET (DEN0022), which
 * KVM_RUN reports as KVM_EXIT_SYSTEM_EVENT in the middle of the step. A user
 * space that makes the vCPU runnable again finds the call failed, and the step
 * still due. Of SMCCC calls KVM of 6.1 passes no others to user space.
 */
	.include "payload.inc"
	classes	alu, hvc, nop

	.equ	SYSTEM_OFF, 0x84000008
	.equ	SYSTEM_RESET, 0x84000009

	.macro	function number
	movz	w0, #(\number >> 16), lsl #16
	movk	w0, #(\number & 0xffff)
	.endm

	.text
	range_begin
	nop
	function SYSTEM_OFF
system_off:
	hvc	#0
	nop
	function SYSTEM_RESET
system_reset:
	hvc	#0
	nop
	mov	x1, x0
	range_end
