/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Instructions whose first try ends in an exception to EL2 that completes nothing,
 * and which execute again: fetch, load and store on pages that stage 2 does not
 * map yet, and the first use of FP registers after a KVM_RUN (CPTR_EL2). The step
 * is still due after the exception: Active-not-pending. The job unmap empties
 * stage 2 before each pass.
 */
	.include "payload.inc"
	classes	alu, load, store, branch-register, sysreg, barrier, fp, nop

	.equ	CPACR_FPEN, 3 << 20

	.text
	range_begin
	nop
	mov	x0, #CPACR_FPEN
	msr	cpacr_el1, x0
	isb
	adrp	x1, read_page
	adrp	x2, write_page
	adr	x3, fetch_page
	adr	x4, back
read:
	ldr	x0, [x1]
	nop
write:
	str	x0, [x2]
	nop
to_fetch_page:
	br	x3
back:
	nop
fmov:
	fmov	d0, #1.0
	nop
fadd:
	fadd	d1, d0, d0
	nop
	range_end

	.balign	4096
fetch_page:
	nop
	br	x4

	.balign	4096
read_page:
	.quad	0x0123456789abcdef
	.balign	4096
write_page:
	.quad	0
