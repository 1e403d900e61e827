/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_HOT_H
#define STEPVMM_HOT_H

#include <asm/unistd.h>

/*
 * What every step goes through. After each world switch L0 has forgotten which page of L1 is where
 * (target/arm/helper.c, do_hcr_write(), flushes the whole TLB), and looks up each one again that
 * is touched. So it lies together, and calls no code that lies elsewhere: not the C library's
 * ioctl(), nor errno, which is in a page of its own.
 */
#define HOT	__attribute__((hot))

/* ioctl(2), without errno: what it returns, or minus the error. */
static inline long raw_ioctl(int fd, unsigned long request, unsigned long argument)
{
	register long x0 asm("x0") = fd;
	register unsigned long x1 asm("x1") = request;
	register unsigned long x2 asm("x2") = argument;
	register long x8 asm("x8") = __NR_ioctl;

	asm volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x8) : "memory", "cc");
	return x0;
}

#endif
