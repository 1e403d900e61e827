/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A loop that polls a device that user space serves: while it runs freely, it
 * leaves for user space once a round, so that a debugger's Ctrl-C gets through
 * after few instructions. HVC (PSCI_VERSION) is in it, too.
 */
	.include "payload.inc"
	classes	alu, branch-conditional, hvc, load, nop

	.equ	DEVICE_BASE, 0x09000000		/* no memory slot, no device of KVM's */
	.equ	FLAGS, 0x18
	.equ	PSCI_VERSION, 0x84000000

	.text
	range_begin
	movz	x4, #(DEVICE_BASE >> 16), lsl #16
	mov	x5, #8
poll:
	ldr	w6, [x4, #FLAGS]
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
in_loop:
	hvc	#0
	nop
	subs	x5, x5, #1
	b.ne	poll
	nop
	range_end
