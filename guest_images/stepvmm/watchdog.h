/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef STEPVMM_WATCHDOG_H
#define STEPVMM_WATCHDOG_H

#include <linux/kvm.h>
#include <stdint.h>

/*
 * Ends a KVM_RUN that has not returned for stall_ns of virtual time. It signals
 * only then: a periodic signal would be an interrupt source of its own.
 */
void watchdog_start(struct kvm_run *run, uint64_t stall_ns);

/* Whether the calling thread is inside KVM_RUN. */
void watchdog_watch(int inside);

int watchdog_stalled(void);

#endif
