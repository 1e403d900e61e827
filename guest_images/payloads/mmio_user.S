/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loads and stores that user space serves: KVM_RUN returns with KVM_EXIT_MMIO in
 * the middle of the step, and the next KVM_RUN completes the instruction
 * (kvm_handle_mmio_return() in Linux arch/arm64/kvm/mmio.c).
 */
	.include "payload.inc"
	classes	alu, load, store, nop

	.equ	NOBODY, 0x09000000		/* no memory slot, no device of KVM's */

	.text
	range_begin
	nop
	movz	x1, #(NOBODY >> 16), lsl #16
write:
	str	w1, [x1]
	nop
read:
	ldr	w0, [x1, #8]
	nop
	mov	x2, x0
	range_end
