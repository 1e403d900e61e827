// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The job interpreter. Operations are data (step_abi.h): a new scenario is a
 * new job, not new C.
 */
#define _GNU_SOURCE	/* gettid() */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <crc32.h>

#include "job.h"
#include "marks.h"
#include "shared.h"
#include "vm.h"
#include "watchdog.h"

#define REPEAT_DEPTH	4
#define NS_PER_S	1000000000ull

enum timer_mode { TIMER_OFF, TIMER_SWEEP, TIMER_TABLE };

struct timer {
	enum timer_mode mode;
	enum timer_kind kind;
	int fd;				/* TIMER_INTERRUPT: a timerfd */
	timer_t signal;			/* TIMER_SIGNAL */
	uint64_t first, stride;		/* TIMER_SWEEP, ns */
	uint32_t next, left;		/* TIMER_TABLE, indexes */
};

struct repeat {
	uint32_t begin, end;		/* operations [begin, end) */
	uint32_t left;
	uint64_t iteration;
};

struct runner {
	const struct job *job;
	struct vm vm;
	struct timer timer;
	struct repeat repeats[REPEAT_DEPTH];
	int depth;
	int stepping;
	uint32_t operation;
};

static const void *map_file(const char *path, size_t *bytes)
{
	int fd = open(path, O_RDONLY);
	struct stat status;
	void *data;

	if (fd < 0 || fstat(fd, &status))
		end(STATE_FAILED, "%s: %s", path, strerror(errno));
	data = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (data == MAP_FAILED)
		end(STATE_FAILED, "mapping %s: %s", path, strerror(errno));
	close(fd);
	*bytes = status.st_size;
	return data;
}

void job_load(struct job *job)
{
	const struct job_header *header;
	size_t bytes, body;

	header = map_file("/job", &bytes);
	if (bytes < sizeof(*header) || header->magic != JOB_MAGIC)
		end(STATE_FAILED, "/job is not a job");
	if (header->version != STEP_ABI_VERSION)
		end(STATE_FAILED, "/job has version %u, not %u", header->version,
		    STEP_ABI_VERSION);
	body = header->operations * sizeof(struct operation) + header->delays * sizeof(uint32_t);
	if (bytes != sizeof(*header) + body || crc32_of(0, header + 1, body) != header->crc32)
		end(STATE_FAILED, "/job is damaged");
	job->header = header;
	job->operations = (const void *)(header + 1);
	job->delays = (const void *)(job->operations + header->operations);
	job->payload = map_file("/payload", &job->payload_bytes);
	if (job->payload_bytes > header->memory_bytes)
		end(STATE_FAILED, "the payload has %zu bytes, its memory %llu",
		    job->payload_bytes, (unsigned long long)header->memory_bytes);
}

static uint64_t counter(void)
{
	uint64_t value;

	/* The ISB keeps the read in program order (DDI 0487, CNTVCT_EL0). */
	asm volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(value) : : "memory");
	return value;
}

static uint64_t iteration(const struct runner *runner)
{
	return runner->depth ? runner->repeats[runner->depth - 1].iteration : 0;
}

/* --- the flood: one shot of L1's timer before each step --- */

static void create_timers(struct timer *timer)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = SIGUSR2,
		._sigev_un._tid = gettid(),
	};

	timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (timer->fd < 0)
		end(STATE_FAILED, "timerfd_create: %s", strerror(errno));
	vm_interruptible_by(SIGUSR2);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer->signal))
		end(STATE_FAILED, "timer_create: %s", strerror(errno));
}

static int next_delay(struct runner *runner, uint64_t *delay)
{
	struct timer *timer = &runner->timer;

	switch (timer->mode) {
	case TIMER_SWEEP:
		*delay = timer->first + timer->stride * iteration(runner);
		return *delay > 0;
	case TIMER_TABLE:
		if (!timer->left)
			return 0;
		timer->left--;
		*delay = runner->job->delays[timer->next++];
		return *delay > 0;
	default:
		return 0;
	}
}

static void set_timer(struct timer *timer, uint64_t delay)
{
	struct itimerspec one_shot = {
		.it_value = { .tv_sec = delay / NS_PER_S, .tv_nsec = delay % NS_PER_S },
	};

	int failed = timer->kind == TIMER_SIGNAL
			     ? timer_settime(timer->signal, 0, &one_shot, NULL)
			     : timerfd_settime(timer->fd, 0, &one_shot, NULL);

	if (failed)
		end(STATE_FAILED, "a timer of %llu ns: %s", (unsigned long long)delay,
		    strerror(errno));
}

static int signal_timer_fired(struct timer *timer)
{
	struct itimerspec left;

	if (timer_gettime(timer->signal, &left))
		end(STATE_FAILED, "timer_gettime: %s", strerror(errno));
	return !left.it_value.tv_sec && !left.it_value.tv_nsec;
}

static int timer_fired(struct timer *timer)
{
	uint64_t expirations;

	if (timer->kind == TIMER_SIGNAL)
		return signal_timer_fired(timer);
	if (read(timer->fd, &expirations, sizeof(expirations)) == sizeof(expirations))
		return 1;
	if (errno != EAGAIN)
		end(STATE_FAILED, "reading the timerfd: %s", strerror(errno));
	return 0;
}

/* --- one KVM_RUN --- */

/* BR, BLR, RET: 1101011 0000 op 11111 000000 Rn 00000 (DDI 0487, C4.1.66). */
static int is_register_branch(uint32_t instruction)
{
	return (instruction & 0xff9ffc1f) == 0xd61f0000;
}

/* Only here can user space know where a register branch must go. */
static void note_register_branch(const struct runner *runner, struct step_record *record)
{
	uint64_t pc = vm_get_register(&runner->vm, CORE_REGISTER(regs.pc));
	uint32_t instruction = vm_instruction(&runner->vm, pc);
	uint32_t rn = instruction >> 5 & 31;

	if (!is_register_branch(instruction))
		return;
	record->flags |= FLAG_BRANCH_REGISTER;
	if (rn < 31)	/* 31 is XZR */
		record->branch_register =
			vm_get_register(&runner->vm, CORE_REGISTER(regs.regs[0]) + 2 * rn);
}

static void note_exit(struct step_record *record, const struct kvm_run *run)
{
	record->exit_reason = run->exit_reason;
	switch (run->exit_reason) {
	case KVM_EXIT_DEBUG:
		record->esr = run->debug.arch.hsr;
		record->far_ = run->debug.arch.far;
		break;
	case KVM_EXIT_MMIO:
		record->detail[0] = run->mmio.phys_addr;
		memcpy(&record->detail[1], run->mmio.data, sizeof(run->mmio.data));
		record->detail[2] = run->mmio.len;
		record->detail[3] = run->mmio.is_write;
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		record->detail[0] = run->internal.suberror;
		record->detail[1] = run->internal.ndata;
		memcpy(&record->detail[2], run->internal.data, 2 * sizeof(uint64_t));
		break;
	case KVM_EXIT_FAIL_ENTRY:
		record->detail[0] = run->fail_entry.hardware_entry_failure_reason;
		record->detail[1] = run->fail_entry.cpu;
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		record->detail[0] = run->system_event.type;
		record->detail[1] = run->system_event.ndata;
		memcpy(&record->detail[2], run->system_event.data, 2 * sizeof(uint64_t));
		break;
	case KVM_EXIT_ARM_NISV:
		record->detail[0] = run->arm_nisv.esr_iss;
		record->detail[1] = run->arm_nisv.fault_ipa;
		break;
	default:
		memcpy(record->detail, &run->hw, sizeof(record->detail));
	}
}

/* again: KVM_RUN has returned for a signal, and a step has one placement at most. */
static struct step_record *run_once(struct runner *runner, int again)
{
	struct step_record *record = shared_record(RECORD_RUN);
	struct vm *vm = &runner->vm;
	uint64_t delay = 0;
	int armed, result;

	record->operation = runner->operation;
	record->iteration = iteration(runner);
	if (runner->stepping) {
		record->flags |= FLAG_STEPPING;
		note_register_branch(runner, record);
	}
	armed = !again && next_delay(runner, &delay);
	if (armed) {
		record->flags |= FLAG_TIMER_ARMED;
		record->delay_ns = delay;
		record->armed_at = counter();
		set_timer(&runner->timer, delay);
	}
	record->entered_at = counter();
	watchdog_watch(1);
	result = ioctl(vm->vcpu, KVM_RUN, 0);
	mark_returned();
	watchdog_watch(0);
	record->error = result < 0 ? errno : 0;
	record->returned_at = counter();
	shared_heartbeat();
	if (armed) {
		if (timer_fired(&runner->timer))
			record->flags |= FLAG_TIMER_FIRED;
		else
			set_timer(&runner->timer, 0);
	}
	record->pc = vm_get_register(vm, CORE_REGISTER(regs.pc));
	record->pstate = vm_get_register(vm, CORE_REGISTER(regs.pstate));
	if (record->error == EINTR)
		record->flags |= FLAG_EINTR;
	else
		note_exit(record, vm->run);
	return record;
}

/* Runs until KVM_RUN returns for another reason than a signal. */
static struct step_record *run(struct runner *runner)
{
	struct step_record *record;
	int again = 0;

	do {
		record = run_once(runner, again++);
		/* A report that came just before the watchdog's signal is no stall. */
		if (watchdog_stalled() && record->flags & FLAG_EINTR) {
			record->flags |= FLAG_STALLED;
			end(STATE_STALLED, "no return from KVM_RUN within %llu ns; PC %#llx",
			    (unsigned long long)runner->job->header->stall_ns,
			    (unsigned long long)record->pc);
		}
	} while (record->flags & FLAG_EINTR);
	return record;
}

static void expect_exit(struct step_record *record, uint32_t reason)
{
	if (!record->error && record->exit_reason == reason)
		return;
	record->flags |= FLAG_UNEXPECTED;
	end(STATE_UNEXPECTED, "operation %u: exit reason %u (error %d) at PC %#llx, not %u",
	    record->operation, record->exit_reason, record->error,
	    (unsigned long long)record->pc, reason);
}

/* --- the operations --- */

static void set_register(struct runner *runner, const struct operation *operation)
{
	struct step_record *record = shared_record(RECORD_SET_REGISTER);

	record->operation = runner->operation;
	record->iteration = iteration(runner);
	record->detail[0] = operation->a;
	record->detail[1] = operation->b;
	vm_set_register(&runner->vm, operation->a, operation->b);
}

static void get_register(struct runner *runner, const struct operation *operation)
{
	struct step_record *record = shared_record(RECORD_REGISTER);

	record->operation = runner->operation;
	record->iteration = iteration(runner);
	record->detail[0] = operation->a;
	record->detail[1] = vm_get_register(&runner->vm, operation->a);
}

static void set_stepping(struct runner *runner, int on)
{
	struct step_record *record = shared_record(RECORD_DEBUG_CONTROL);
	uint32_t control = on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0;

	record->operation = runner->operation;
	record->iteration = iteration(runner);
	record->detail[0] = control;
	vm_set_debug(&runner->vm, control);
	runner->stepping = on;
}

static void step(struct runner *runner, const struct operation *operation)
{
	for (uint32_t i = 0; i < operation->n; i++) {
		struct step_record *record = run(runner);

		expect_exit(record, KVM_EXIT_DEBUG);
		if (record->pc == operation->a)
			return;
	}
}

static void begin_iteration(struct runner *runner)
{
	struct step_record *record = shared_record(RECORD_PASS);

	record->operation = runner->repeats[runner->depth - 1].begin - 1;
	record->iteration = iteration(runner);
	record->detail[0] = iteration(runner);
}

static void begin_repeat(struct runner *runner, const struct operation *operation)
{
	struct repeat *repeat;

	if (runner->depth == REPEAT_DEPTH)
		end(STATE_FAILED, "operation %u: more than %d nested repeats", runner->operation,
		    REPEAT_DEPTH);
	repeat = &runner->repeats[runner->depth++];
	repeat->begin = runner->operation + 1;
	repeat->left = operation->n;
	repeat->iteration = 0;
	if (!operation->n || !operation->a ||
	    operation->a > runner->job->header->operations - repeat->begin)
		end(STATE_FAILED, "operation %u: a repeat of nothing", runner->operation);
	repeat->end = repeat->begin + operation->a;
	begin_iteration(runner);
}

/* After an operation: the next one, or the begin of the innermost repeat that goes on. */
static uint32_t next_operation(struct runner *runner)
{
	uint32_t next = runner->operation + 1;

	while (runner->depth) {
		struct repeat *repeat = &runner->repeats[runner->depth - 1];

		if (next < repeat->end)
			break;
		if (--repeat->left) {
			repeat->iteration++;
			begin_iteration(runner);
			return repeat->begin;
		}
		runner->depth--;
	}
	return next;
}

static void timer_table(struct runner *runner, const struct operation *operation)
{
	uint32_t delays = runner->job->header->delays;

	if (operation->n > delays || operation->a > delays - operation->n)
		end(STATE_FAILED, "operation %u: delays beyond the table", runner->operation);
	runner->timer.mode = TIMER_TABLE;
	runner->timer.kind = operation->kind;
	runner->timer.next = operation->a;
	runner->timer.left = operation->n;
}

static void load_payload(struct runner *runner)
{
	memcpy(runner->vm.memory, runner->job->payload, runner->job->payload_bytes);
	__builtin___clear_cache((char *)runner->vm.memory,
				(char *)runner->vm.memory + runner->job->payload_bytes);
}

static void perform(struct runner *runner, const struct operation *operation)
{
	switch (operation->code) {
	case OP_SET_REG:
		set_register(runner, operation);
		break;
	case OP_GET_REG:
		get_register(runner, operation);
		break;
	case OP_STEP_ON:
		set_stepping(runner, 1);
		break;
	case OP_STEP_OFF:
		set_stepping(runner, 0);
		break;
	case OP_STEP:
		step(runner, operation);
		break;
	case OP_RUN:
		expect_exit(run(runner), operation->a);
		break;
	case OP_TIMER_SWEEP:
		runner->timer.mode = TIMER_SWEEP;
		runner->timer.kind = operation->kind;
		runner->timer.first = operation->a;
		runner->timer.stride = operation->b;
		break;
	case OP_TIMER_TABLE:
		timer_table(runner, operation);
		break;
	case OP_TIMER_OFF:
		runner->timer.mode = TIMER_OFF;
		break;
	case OP_REPEAT:
		begin_repeat(runner, operation);
		break;
	default:
		end(STATE_FAILED, "operation %u: unknown code %u", runner->operation,
		    operation->code);
	}
}

void job_run(const struct job *job)
{
	static struct runner runner;

	runner.job = job;
	create_timers(&runner.timer);
	vm_create(&runner.vm, job->header->load_address, job->header->memory_bytes);
	load_payload(&runner);
	watchdog_start(runner.vm.run, job->header->stall_ns);
	mark_job_begin();
	while (runner.operation < job->header->operations) {
		const struct operation *operation = &job->operations[runner.operation];

		perform(&runner, operation);
		/* A repeat goes on with its first operation, whatever closes after it. */
		runner.operation = operation->code == OP_REPEAT ? runner.operation + 1
								: next_operation(&runner);
	}
	mark_job_end();
}
