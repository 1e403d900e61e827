/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HVC that KVM handles in the kernel: PSCI_VERSION (DEN0022). HVC has completed
 * when its exception is taken, so SPSR_EL2.SS is 0 at the exit and the vCPU is
 * entered again in Active-pending: no interrupt is needed to lose the step.
 */
	.include "payload.inc"
	classes	alu, hvc, nop

	.equ	PSCI_VERSION, 0x84000000

	.text
	range_begin
	nop
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
first_hvc:
	hvc	#0
	nop
	mov	x1, x0
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
second_hvc:
	hvc	#0
	nop
	nop
	range_end
