/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_PROC_INTERRUPTS_H
#define STEPVMM_PROC_INTERRUPTS_H

#include <stdint.h>

/* A record for each interrupt of L1 that has come, as /proc/interrupts counts them. */
void note_proc_interrupts(uint32_t operation);

#endif
