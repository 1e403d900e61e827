/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What KVM's own selftest debug-exceptions steps through in its loop (Linux
 * v6.1, tools/testing/selftests/kvm/aarch64/debug-exceptions.c, between
 * iter_ss_begin and iter_ss_end): a NOP, then a breakpoint and a watchpoint
 * register written, then both read again. While a debugger steps the guest all
 * four trap to EL2 (MDCR_EL2.TDA) and KVM emulates them, so that each can lose
 * its step as trapped_sysreg's read can. One pass is one iteration of that loop.
 */
	.include "payload.inc"
	classes	nop, sysreg

	.text
	range_begin
	nop
write_breakpoint:
	msr	dbgbvr0_el1, x0
write_watchpoint:
	msr	dbgwvr0_el1, x0
read_breakpoint:
	mrs	x1, dbgbvr0_el1
read_watchpoint:
	mrs	x2, dbgwvr0_el1
	range_end
