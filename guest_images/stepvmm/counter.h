/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_COUNTER_H
#define STEPVMM_COUNTER_H

#include <stdint.h>

static inline uint64_t counter(void)
{
	uint64_t value;

	/* The ISB keeps the read in program order (DDI 0487, CNTVCT_EL0). */
	asm volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(value) : : "memory");
	return value;
}

#endif
