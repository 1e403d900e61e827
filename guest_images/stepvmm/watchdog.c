// SPDX-License-Identifier: GPL-2.0-or-later
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "hot.h"
#include "shared.h"
#include "vm.h"
#include "watchdog.h"

#define NS_PER_S	1000000000ull
#define CHECKS		2	/* a stall spans at least one whole interval between two checks */

static struct kvm_run *watched_run;
static pthread_t vcpu_thread;
static uint64_t interval_ns;
static int inside_run, stalled;

static void *watch(void *unused)
{
	struct timespec interval = {
		.tv_sec = interval_ns / NS_PER_S,
		.tv_nsec = interval_ns % NS_PER_S,
	};
	uint64_t seen = 0;
	int unchanged = 0;

	for (;;) {
		uint64_t progress;

		nanosleep(&interval, NULL);
		progress = shared_progress();
		unchanged = progress == seen ? unchanged + 1 : 0;
		seen = progress;
		if (unchanged < CHECKS || !__atomic_load_n(&inside_run, __ATOMIC_ACQUIRE))
			continue;
		/* Back from KVM_RUN, and in it again, since progress was read. */
		if (shared_progress() != seen)
			continue;
		__atomic_store_n(&stalled, 1, __ATOMIC_RELEASE);
		watched_run->immediate_exit = 1;
		pthread_kill(vcpu_thread, SIGUSR1);
	}
	return unused;
}

void watchdog_start(struct kvm_run *run, uint64_t stall_ns)
{
	pthread_t thread;
	int error;

	watched_run = run;
	vcpu_thread = pthread_self();
	interval_ns = stall_ns / CHECKS;
	vm_interruptible_by(SIGUSR1);
	error = pthread_create(&thread, NULL, watch, NULL);
	if (error)
		end(STATE_FAILED, "pthread_create: %s", strerror(error));
}

HOT void watchdog_watch(int inside)
{
	__atomic_store_n(&inside_run, inside, __ATOMIC_RELEASE);
}

HOT int watchdog_stalled(void)
{
	return __atomic_load_n(&stalled, __ATOMIC_ACQUIRE);
}
