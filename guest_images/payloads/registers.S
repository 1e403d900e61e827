/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leaves alone almost every register, on each way through KVM: none (plain), emulated in the
 * kernel (a trapped system register), emulated by user space (MMIO). The job (jobs/registers.job)
 * gives each register a value of its own, X12 the device's address, and knows what comes of X11.
 */
	.include "payload.inc"
	classes	sysreg, load, store, nop

	.text
	range_begin
	nop
	mrs	x10, id_aa64pfr0_el1
	nop
	ldr	w11, [x12]
	nop
	str	w13, [x12, #8]
	nop
	nop
	range_end
