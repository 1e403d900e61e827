/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A second vCPU is turned on by PSCI (DEN0022, CPU_ON) and polls a device that
 * user space serves, while the first goes on. Where there is no second vCPU,
 * CPU_ON is refused, and nothing else is different.
 */
	.include "payload.inc"
	classes	alu, branch-conditional, hvc, load, nop

	.equ	CPU_ON, 0xc4000003
	.equ	PSCI_VERSION, 0x84000000
	.equ	DEVICE_BASE, 0x09000000		/* no memory slot, no device of KVM's */
	.equ	FLAGS, 0x18

	.text
	range_begin
	movz	x4, #(DEVICE_BASE >> 16), lsl #16
	mov	x5, #2
	/* Time for the second vCPU's thread to enter KVM: QEMU tells KVM that it is off. */
wait:
	ldr	w6, [x4, #FLAGS]
	subs	x5, x5, #1
	b.ne	wait
	movz	w0, #(CPU_ON & 0xffff)
	movk	w0, #(CPU_ON >> 16), lsl #16
	mov	x1, #1
	adr	x2, vcpu1_begin
	mov	x3, #0
turn_on:
	hvc	#0
	nop
	mov	x5, #4
count:
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
in_count:
	hvc	#0
	nop
	subs	x5, x5, #1
	b.ne	count
	nop
	range_end

vcpu1_begin:
	movz	x4, #(DEVICE_BASE >> 16), lsl #16
vcpu1_poll:
	ldr	w6, [x4, #FLAGS]
	movz	w0, #(PSCI_VERSION >> 16), lsl #16
vcpu1_hvc:
	hvc	#0
	nop
	b	vcpu1_poll
vcpu1_end:
	nop
