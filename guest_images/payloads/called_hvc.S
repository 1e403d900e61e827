/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HVC (PSCI_VERSION) where a debugger's commands look at the code around it: in
 * a function that is called, last before its return, and just before a call.
 */
	.include "payload.inc"
	classes	branch-link, hvc, alu, nop

	.equ	PSCI_VERSION, 0x84000000

	/*
	 * No labels inside of functions: gdb takes each for a function's beginning,
	 * and would not know its own frame again behind a call.
	 */
	.text
	range_begin
	nop
	nop
	bl	function		/* entry+0x8 */
	nop
	bl	leaves			/* entry+0x10 */
	nop
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
	hvc	#0			/* entry+0x1c */
	bl	function
	nop
	range_end

function:
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
	hvc	#0			/* function+0x4 */
	mov	x1, x0
	nop
	ret

leaves:
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
	hvc	#0			/* leaves+0x4 */
	ret

	.balign	16
	.fill	16, 8, 0
stack:
