/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A system register read that traps to EL2 (HCR_EL2.TID3) and that KVM emulates:
 * it advances PC and clears PSTATE.SS itself, then enters L2 in Active-pending.
 * The step is lost only when an interrupt is taken at that entry, before the
 * Software Step exception: a window in time, which a sweep finds.
 */
	.include "payload.inc"
	classes	alu, sysreg, nop

	.text
	range_begin
	nop
trapped_read:
	mrs	x0, id_aa64pfr0_el1
	nop
	mov	x1, x0
	range_end
