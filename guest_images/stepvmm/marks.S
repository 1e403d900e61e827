/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HINT #127 (CRm 0b1111, op2 0b111) is unallocated and executes as a NOP
 * (DDI 0487, "HINT"). The plugin checks the encoding as well as the address.
 */
	/* Else ld names the symbols' file after the object, and gcc that at random. */
	.file	"marks.S"

	.macro	mark name
	.globl	mark_\name
	.type	mark_\name, %function
	.balign	16
mark_\name:
	hint	#127
	ret
	.size	mark_\name, . - mark_\name
	.endm

	.section .text.hot, "ax", %progbits
	mark	returned
	mark	job_begin
	mark	job_end

	.section .note.GNU-stack, "", %progbits
