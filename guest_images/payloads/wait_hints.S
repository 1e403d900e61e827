/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * WFI, WFE and YIELD. KVM traps the first two (HCR_EL2.TWI, TWE); TCG makes NOPs
 * of them while single-stepping (QEMU target/arm/tcg/translate-a64.c,
 * DISAS_WFI under ss_active), so here they can't show what hardware would.
 */
	.include "payload.inc"
	classes	hint, nop

	.text
	range_begin
	nop
wait_for_event:
	wfe
	nop
wait_for_interrupt:
	wfi
	nop
	yield
	range_end
