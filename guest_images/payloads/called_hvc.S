/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HVC (PSCI_VERSION) where a debugger's commands look at the code around it: in
 * a function that is called, last before its return, and just before a call.
 */
	.include "payload.inc"
	classes	branch-link, hvc, alu, nop

	.equ	PSCI_VERSION, 0x84000000

	.text
	range_begin
	nop
call:
	bl	function
after_call:
	nop
	bl	leaves
after_leaves:
	nop
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
hvc_then_call:
	hvc	#0
	bl	function
after_hvc_then_call:
	nop
	range_end

function:
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
inner_hvc:
	hvc	#0
	mov	x1, x0
	nop
	ret

leaves:
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
last_hvc:
	hvc	#0
	ret
