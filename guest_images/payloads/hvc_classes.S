/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HVC in all the ways in which KVM of 6.1 answers it without user space: PSCI
 * functions that exist (DEN0022), SMCCC's own (DEN0028), and a function that does
 * not exist. HVC is complete when its exception is taken: L2 is entered again in
 * Active-pending.
 */
	.include "payload.inc"
	classes	alu, hvc, nop

	.equ	PSCI_FEATURES, 0x8400000a
	.equ	PSCI_AFFINITY_INFO, 0x84000004
	.equ	SMCCC_VERSION, 0x80000000
	.equ	SMCCC_UNKNOWN, 0x8400ffff

	.macro	function number
	movz	w0, #(\number >> 16), lsl #16
	movk	w0, #(\number & 0xffff)
	mov	x1, xzr
	mov	x2, xzr
	.endm

	.text
	range_begin
	nop
	function PSCI_FEATURES
psci_features:
	hvc	#0
	nop
	function PSCI_AFFINITY_INFO
psci_affinity_info:
	hvc	#0
	nop
	function SMCCC_VERSION
smccc_version:
	hvc	#0
	nop
	function SMCCC_UNKNOWN
unhandled:
	hvc	#0
	nop
	range_end
