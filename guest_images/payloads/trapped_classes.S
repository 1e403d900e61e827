/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One instruction of each class that traps to EL2 and that KVM emulates, all but
 * HVC: KVM advances PC by itself (kvm_skip_instr() in Linux arch/arm64/kvm/hyp/
 * include/hyp/adjust_pc.h) and enters L2 again in Active-pending.
 */
	.include "payload.inc"
	classes	alu, sysreg, system, smc, load, store, nop

	.equ	DISTRIBUTOR, 0x08000000		/* guest_images/stepvmm/vm.h */
	.equ	GICD_STATUSR, 0x10		/* RAZ/WI in KVM: the write changes nothing */
	.equ	GICD_TYPER, 0x4
	.equ	SMCCC_UNKNOWN, 0x8400ffff	/* no such function: KVM answers NOT_SUPPORTED */

	.text
	range_begin
	nop
id_register:
	mrs	x0, id_aa64pfr0_el1		/* HCR_EL2.TID3 */
	nop
debug_register:
	mrs	x1, mdscr_el1			/* MDCR_EL2.TDA */
	nop
auxiliary_control:
	mrs	x2, actlr_el1			/* HCR_EL2.TACR */
	nop
set_way:
	dc	isw, xzr			/* HCR_EL2.TSW */
	nop
	movz	w0, #(SMCCC_UNKNOWN >> 16), lsl #16
	movk	w0, #(SMCCC_UNKNOWN & 0xffff)
secure_call:
	smc	#0				/* HCR_EL2.TSC */
	nop
	movz	x4, #(DISTRIBUTOR >> 16), lsl #16
device_read:
	ldr	w3, [x4, #GICD_TYPER]		/* stage-2 abort: the vgic serves it */
	nop
device_write:
	str	wzr, [x4, #GICD_STATUSR]
	nop
	range_end
