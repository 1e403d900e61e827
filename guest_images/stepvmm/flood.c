// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE	/* gettid(), CPU_SET() */
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "counter.h"
#include "flood.h"
#include "shared.h"

#define NS_PER_S	1000000000ull
#define MOST_EVENTS	(MOST_SHOTS + 2)
#define ASKING_NS	60000	/* more than two context switches and two IPIs take */
#define MOST_ASKED	100	/* something else of L1's ran meanwhile, each time */

/* Tags of epoll_data beside the shots' numbers. */
#define PERIODIC	MOST_SHOTS
#define REQUEST		(MOST_SHOTS + 1)

struct shot {
	struct placement placement;
	int alone;		/* a timerfd that nobody waits for: its interrupt is all */
	int watched;		/* a timerfd that the thread waits for */
	int armed;		/* which one is: alone, watched, or -1 for the signal's timer */
	int fired;		/* the thread saw it */
	int over;		/* ... and so does the vCPU's thread */
	uint64_t acted_at;
};

static struct {
	struct vm *vm;
	const struct guest_counters *counters;
	struct shot shots[MOST_SHOTS];
	int count;
	uint64_t armed_at;
	timer_t signal;
	pthread_t vcpu;
	int epoll, periodic, request, done, memory_request;
	int memory_changes;		/* a change of L2's memory is under way */
	enum timer_kind periodic_kind;
	uint64_t periodic_since, period;
	int other_cpu;			/* the vCPU's thread has a CPU of its own */
	struct flood_sent sent[TIMER_KINDS];
	uint64_t virtual_expiry;	/* of L2's virtual timer, in its own count */
	int virtual_armed;
} flood;

static void failed(const char *what)
{
	end(STATE_FAILED, "%s: %s", what, strerror(errno));
}

/* --- what is done when a timer has fired --- */

/* Whether L2 has handled all that was sent: another one now would not merge with the last. */
static int all_handled(enum timer_kind kind)
{
	if (!flood.counters || !vm_reaches_guest(kind))
		return 1;
	return __atomic_load_n(&flood.counters->handled[kind], __ATOMIC_ACQUIRE) ==
	       flood.sent[kind].sent;
}

static int changes_memory(enum timer_kind kind)
{
	return kind == TIMER_MEMSLOT || kind == TIMER_DIRTY_LOG;
}

/*
 * A change of a memory slot waits for a grace period of SRCU (Linux virt/kvm/kvm_main.c,
 * kvm_swap_active_memslots()): some us, or, on a kernel that leaves it to a kworker which
 * preempts nobody, many ms. What comes meanwhile must not wait for it.
 */
static void change_memory(enum timer_kind kind)
{
	uint64_t request = kind;

	__atomic_store_n(&flood.memory_changes, 1, __ATOMIC_RELAXED);
	if (write(flood.memory_request, &request, sizeof(request)) != sizeof(request))
		failed("asking for a change of memory");
}

static void *memory_thread(void *unused)
{
	uint64_t kind;

	while (read(flood.memory_request, &kind, sizeof(kind)) == sizeof(kind)) {
		vm_send(flood.vm, kind);
		__atomic_store_n(&flood.memory_changes, 0, __ATOMIC_RELEASE);
	}
	failed("reading what memory to change");
	return unused;
}

static int held_back(enum timer_kind kind)
{
	if (changes_memory(kind))
		return __atomic_load_n(&flood.memory_changes, __ATOMIC_ACQUIRE);
	return !all_handled(kind);
}

static uint64_t act(enum timer_kind kind)
{
	if (held_back(kind)) {
		flood.sent[kind].held_back++;
		return 0;
	}
	flood.sent[kind].sent++;
	if (kind == TIMER_SIGNAL)
		pthread_kill(flood.vcpu, SIGUSR2);
	else if (changes_memory(kind))
		change_memory(kind);
	else if (kind != TIMER_INTERRUPT)
		vm_send(flood.vm, kind);
	return counter();
}

/* --- timers --- */

static void set_timerfd(int fd, uint64_t delay, uint64_t period)
{
	struct itimerspec time = {
		.it_value = { .tv_sec = delay / NS_PER_S, .tv_nsec = delay % NS_PER_S },
		.it_interval = { .tv_sec = period / NS_PER_S, .tv_nsec = period % NS_PER_S },
	};

	if (timerfd_settime(fd, 0, &time, NULL))
		failed("timerfd_settime");
}

static void set_signal(uint64_t delay)
{
	struct itimerspec time = {
		.it_value = { .tv_sec = delay / NS_PER_S, .tv_nsec = delay % NS_PER_S },
	};

	if (timer_settime(flood.signal, 0, &time, NULL))
		failed("timer_settime");
}

static int signal_fired(void)
{
	struct itimerspec left;

	if (timer_gettime(flood.signal, &left))
		failed("timer_gettime");
	return !left.it_value.tv_sec && !left.it_value.tv_nsec;
}

static int expired(int fd)
{
	uint64_t expirations;

	if (read(fd, &expirations, sizeof(expirations)) == sizeof(expirations))
		return 1;
	if (errno != EAGAIN)
		failed("reading a timerfd");
	return 0;
}

static int new_timerfd(int tag)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = tag };

	if (fd < 0)
		failed("timerfd_create");
	if (tag >= 0 && epoll_ctl(flood.epoll, EPOLL_CTL_ADD, fd, &event))
		failed("epoll_ctl");
	return fd;
}

/* --- L2's virtual timer: no other thread, and no other clock --- */

static void arm_virtual(uint64_t delay)
{
	if (!all_handled(TIMER_VTIMER)) {
		flood.sent[TIMER_VTIMER].held_back++;
		return;
	}
	flood.virtual_expiry = vm_get_register(flood.vm, KVM_REG_ARM_TIMER_CNT) + delay;
	flood.virtual_armed = 1;
	vm_set_register(flood.vm, KVM_REG_ARM_TIMER_CVAL, flood.virtual_expiry);
	vm_set_register(flood.vm, KVM_REG_ARM_TIMER_CTL, 1);	/* ENABLE */
}

static int virtual_fired(void)
{
	if (!flood.virtual_armed ||
	    vm_get_register(flood.vm, KVM_REG_ARM_TIMER_CNT) < flood.virtual_expiry)
		return 0;
	flood.virtual_armed = 0;
	flood.sent[TIMER_VTIMER].sent++;
	return 1;
}

static void disarm_virtual(void)
{
	if (!flood.virtual_armed)
		return;
	flood.virtual_armed = 0;
	vm_set_register(flood.vm, KVM_REG_ARM_TIMER_CTL, 0);
}

/* --- one step's placements --- */

static uint64_t left_of(const struct shot *shot)
{
	uint64_t expiry = flood.armed_at + shot->placement.delay, now = counter();

	return expiry > now ? expiry - now : 1;
}

static void arm_shot(struct shot *shot, int first)
{
	shot->fired = 0;
	shot->over = 0;
	shot->acted_at = 0;
	if (shot->placement.kind == TIMER_VTIMER) {
		arm_virtual(shot->placement.delay);
	} else if (shot->placement.kind == TIMER_SIGNAL && first && !flood.other_cpu) {
		shot->armed = -1;
		set_signal(shot->placement.delay);
	} else {
		shot->armed = shot->placement.kind == TIMER_INTERRUPT && !flood.other_cpu
				      ? shot->alone
				      : shot->watched;
		set_timerfd(shot->armed, first && !flood.other_cpu ? shot->placement.delay
							     : left_of(shot), 0);
	}
}

static void arm_all(void)
{
	for (int i = 0; i < flood.count; i++)
		arm_shot(&flood.shots[i], !i);
}

/* It arms what there is to arm, and answers. */
static void call_thread(void)
{
	uint64_t one = 1;

	if (write(flood.request, &one, sizeof(one)) != sizeof(one) ||
	    read(flood.done, &one, sizeof(one)) != sizeof(one))
		failed("asking the flood's thread");
}

static void place(const struct placement *shots, int count, uint64_t armed_at)
{
	flood.count = count;
	flood.armed_at = armed_at;
	for (int i = 0; i < count; i++)
		flood.shots[i].placement = shots[i];
}

/*
 * A timer fires on the CPU that arms it (hrtimers are per CPU): the thread's, if
 * it has its own. Both sides wait for the same moment, so that what asking takes
 * is in no delay. Where L1 has something else to do meanwhile, and that moment is
 * past, they wait for another.
 */
static void ask_thread(const struct placement *shots, int count)
{
	for (int asked = 0; asked < MOST_ASKED; asked++) {
		place(shots, count, counter() + ASKING_NS);
		call_thread();
		if (counter() <= flood.armed_at) {
			while (counter() < flood.armed_at)
				;
			return;
		}
		flood_disarm();
	}
	end(STATE_FAILED, "asking CPU 0 for an interrupt took more than %d ns, %d times",
	    ASKING_NS, MOST_ASKED);
}

uint64_t flood_arm(const struct placement *shots, int count)
{
	if (flood.other_cpu) {
		ask_thread(shots, count);
	} else {
		place(shots, count, counter());
		arm_all();
	}
	return flood.armed_at;
}

static int has_fired(const struct shot *shot)
{
	if (shot->placement.kind == TIMER_VTIMER)
		return virtual_fired();
	if (shot->armed == shot->watched)
		return __atomic_load_n(&shot->fired, __ATOMIC_ACQUIRE);
	if (shot->armed < 0 ? !signal_fired() : !expired(shot->armed))
		return 0;
	flood.sent[shot->placement.kind].sent++;
	return 1;
}

static void cancel(const struct shot *shot)
{
	if (shot->placement.kind == TIMER_VTIMER)
		disarm_virtual();
	else if (shot->armed < 0)
		set_signal(0);
	else
		set_timerfd(shot->armed, 0, 0);
}

int flood_fired(uint64_t *acted_at)
{
	int first = 0;

	for (int i = 0; i < flood.count; i++) {
		struct shot *shot = &flood.shots[i];

		if (shot->over || !has_fired(shot))
			continue;
		shot->over = 1;
		if (!i) {
			first = 1;
			*acted_at = shot->acted_at;
		}
	}
	return first;
}

int flood_pending(void)
{
	for (int i = 0; i < flood.count; i++)
		if (!flood.shots[i].over)
			return 1;
	return 0;
}

void flood_disarm(void)
{
	for (int i = 0; i < flood.count; i++)
		if (!flood.shots[i].over)
			cancel(&flood.shots[i]);
	flood.count = 0;
}

void flood_periodic(enum timer_kind kind, uint64_t period_ns)
{
	flood.periodic_kind = kind;
	flood.period = period_ns;
	flood.periodic_since = period_ns ? counter() : 0;
	set_timerfd(flood.periodic, period_ns, period_ns);
}

uint64_t flood_period(uint64_t *since)
{
	*since = flood.periodic_since;
	return flood.period;
}

/* The thread does one thing after another: when it answers, it is in the midst of none. */
void flood_pause(void)
{
	if (flood.period)
		set_timerfd(flood.periodic, 0, 0);
	flood_disarm();
	call_thread();
}

/* Where its period would be, had it never been paused. */
void flood_resume(void)
{
	if (flood.period)
		set_timerfd(flood.periodic,
			    flood.period - (counter() - flood.periodic_since) % flood.period,
			    flood.period);
}

/* --- the threads --- */

static void membarrier(int command)
{
	if (syscall(SYS_membarrier, command, 0, 0))
		failed("membarrier");
}

/*
 * A timer of CPU 0 interrupts nobody on the vCPU's: an IPI does. The barrier
 * sends one to each CPU that runs this process, and does nothing else there
 * (membarrier(2), MEMBARRIER_CMD_PRIVATE_EXPEDITED). It is over when the other CPU
 * has answered: perhaps when the step is over, too.
 */
static void interrupt_other_cpu(void)
{
	membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

static void serve(uint32_t tag)
{
	uint64_t one = 1;

	if (tag == REQUEST) {
		if (read(flood.request, &one, sizeof(one)) != sizeof(one))
			failed("the flood's thread");
		arm_all();
		one = 1;
		if (write(flood.done, &one, sizeof(one)) != sizeof(one))
			failed("the flood's thread");
	} else if (tag == PERIODIC) {
		if (expired(flood.periodic))
			act(flood.periodic_kind);
	} else if (expired(flood.shots[tag].watched)) {
		struct shot *shot = &flood.shots[tag];

		shot->acted_at = act(shot->placement.kind);
		__atomic_store_n(&shot->fired, 1, __ATOMIC_RELEASE);
		if (flood.other_cpu && shot->placement.kind == TIMER_INTERRUPT)
			interrupt_other_cpu();
	}
}

static void *flood_thread(void *unused)
{
	struct epoll_event events[MOST_EVENTS];

	for (;;) {
		int count = epoll_wait(flood.epoll, events, MOST_EVENTS, -1);

		if (count < 0 && errno != EINTR)
			failed("epoll_wait");
		for (int i = 0; i < count; i++)
			serve(events[i].data.u32);
	}
	return unused;
}

static void pin(pthread_t thread, uint32_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	errno = pthread_setaffinity_np(thread, sizeof(set), &set);
	if (errno)
		end(STATE_FAILED, "L1 has no CPU %u: %s", cpu, strerror(errno));
}

static int new_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	if (fd < 0)
		failed("eventfd");
	return fd;
}

static void start_thread(void *(*does)(void *))
{
	struct sched_param priority = { .sched_priority = 1 };
	pthread_t thread;

	errno = pthread_create(&thread, NULL, does, NULL);
	if (!errno)
		errno = pthread_setschedparam(thread, SCHED_FIFO, &priority);
	if (errno)
		failed("the flood's threads");
	pin(thread, 0);
}

static void start_threads(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = REQUEST };

	flood.request = new_eventfd();
	flood.done = new_eventfd();
	flood.memory_request = new_eventfd();
	if (epoll_ctl(flood.epoll, EPOLL_CTL_ADD, flood.request, &event))
		failed("epoll_ctl");
	start_thread(flood_thread);
	start_thread(memory_thread);
}

static void create_signal_timer(void)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = SIGUSR2,
		._sigev_un._tid = gettid(),
	};

	vm_interruptible_by(SIGUSR2);
	if (timer_create(CLOCK_MONOTONIC, &event, &flood.signal))
		failed("timer_create");
}

void flood_start(struct vm *vm, const struct job_header *header)
{
	flood.vm = vm;
	flood.other_cpu = header->cpu != 0;
	flood.vcpu = pthread_self();
	if (header->counters)
		flood.counters = vm_at(vm, header->counters, sizeof(*flood.counters));
	pin(flood.vcpu, header->cpu);
	if (flood.other_cpu)
		membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
	flood.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (flood.epoll < 0)
		failed("epoll_create1");
	create_signal_timer();
	for (int i = 0; i < MOST_SHOTS; i++) {
		flood.shots[i].alone = new_timerfd(-1);
		flood.shots[i].watched = new_timerfd(i);
	}
	flood.periodic = new_timerfd(PERIODIC);
	start_threads();
}

struct flood_sent flood_sent(enum timer_kind kind)
{
	return flood.sent[kind];
}

const struct guest_counters *flood_counters(void)
{
	return flood.counters;
}
