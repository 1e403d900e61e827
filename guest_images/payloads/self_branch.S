/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Branches to themselves: a lost step leaves every reported PC right, and only
 * the number of executions tells. The job self-branch ends them.
 */
	.include "payload.inc"
	classes	alu, branch, compare-branch, nop

	.text
	range_begin
	nop
	mov	x0, #1
	nop
unconditional:
	b	.
conditional:
	cbnz	x0, .
	nop
	range_end
