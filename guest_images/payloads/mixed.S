/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One instruction of each way through KVM, for jobs that interfere with stepping:
 * none (plain), completed before its exit (HVC), emulated in the kernel (a
 * trapped system register), emulated by user space (MMIO).
 */
	.include "payload.inc"
	classes	alu, hvc, sysreg, load, store, nop

	.equ	PSCI_VERSION, 0x84000000
	.equ	NOBODY, 0x09000000		/* no memory slot, no device of KVM's */

	.text
	range_begin
	nop
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
call:
	hvc	#0
	nop
trapped_read:
	mrs	x1, id_aa64pfr0_el1
	nop
	movz	x2, #(NOBODY >> 16), lsl #16
device_write:
	str	w0, [x2]
	nop
device_read:
	ldr	w3, [x2, #8]
	.globl	moved
moved:
	nop
	nop
	range_end
