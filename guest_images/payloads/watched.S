/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stores to a place that a debugger watches, one of them just behind HVC
 * (PSCI_VERSION): where its step is lost, the store is what runs unseen.
 */
	.include "payload.inc"
	classes	alu, hvc, load, nop, store

	.equ	PSCI_VERSION, 0x84000000

	.text
	range_begin
	adrp	x4, cell
	mov	x5, #1
plain_store:
	str	x5, [x4]
	nop
	add	x5, x5, #1
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
before_store:
	hvc	#0
hidden_store:
	str	x5, [x4]
	ldr	x6, [x4]
	nop
	nop
	range_end

	/* A page of its own: TCG would translate the code again after each store beside it. */
	.balign	4096
cell:
	.fill	8, 8, 0
