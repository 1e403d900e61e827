// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The job interpreter. Operations are data (step_abi.h): a new scenario is a
 * new job, not new C.
 */
#define _GNU_SOURCE	/* unshare() */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <crc32.h>

#include "counter.h"
#include "flood.h"
#include "hot.h"
#include "proc_interrupts.h"
#include "job.h"
#include "marks.h"
#include "shared.h"
#include "timer.h"
#include "vm.h"
#include "watchdog.h"

#define REPEAT_DEPTH	4
#define OCCASIONS	(ON_EXIT + 1)
#define MMIO_READS	0x5a		/* each byte that L2 reads where there is no device */
#define ERET		0xd69f03e0	/* DDI 0487, C6.2.117 */
#define MOST_RECORDS	24		/* of a step: less than a page has room for */
#define STEPPING	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)
#define EL1H_MASKED	0x3c5		/* EL1h with D, A, I and F masked */

/* Offsets of the IRQ vectors that an L2 with SP_ELx and AArch64 uses (DDI 0487, D1.4.2). */
#define VECTOR_OFFSET	0x7ff
#define IRQ_FROM_EL1H	0x280
#define IRQ_FROM_EL0	0x480

/*
 * Interrupts that are sent into every step of their own handler leave L2 no
 * time for anything else. One in so many steps still nests, and a handler is
 * shorter than this.
 */
#define HANDLER_STRIDE	61
#define PASS_STRIDE	17

/*
 * So often does L2 ask user space for something in one step, or in one call,
 * only if it gets no further: a line that stays high, a store that is never
 * done with. Each handler of what is pending asks twice at most.
 */
#define MOST_SERVED	1000
#define MOST_INTERRUPTED 10000	/* returns with EINTR in a row: a flood gives a step a few */

/* The first of what is HOT: all of it fits into the page that begins here. */
asm(".pushsection .text.hot, \"ax\", %progbits\n\t.balign 4096\n\t.popsection");

struct repeat {
	uint32_t begin, end;		/* operations [begin, end) */
	uint32_t left;
	uint64_t iteration;
};

struct block {
	uint32_t begin, end;		/* operations [begin, end) */
};

struct runner {
	const struct job *job;
	struct vm vm;
	struct timer timer;
	struct repeat repeats[REPEAT_DEPTH];
	int depth;
	struct block blocks[OCCASIONS];
	const struct operation *debug;	/* the last OP_DEBUG, or NULL */
	int stepping;
	int in_step;			/* from a step's first KVM_RUN to its report */
	int placed;			/* the step has had its one placement */
	int armed;			/* ... and its timers run */
	int periodic;			/* a timer runs, whatever is stepped */
	struct placement first;
	uint32_t second_delay;
	uint64_t armed_at;
	uint32_t turns, turn;		/* OP_TIMER_TURNS; this pass's steps so far */
	uint32_t handler_steps;
	int in_handler;			/* the step before was the handler's */
	int interrupted;		/* returns with EINTR in a row */
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
	body = header->operations * sizeof(struct operation) +
	       header->placements * sizeof(struct placement);
	if (bytes != sizeof(*header) + body || crc32_of(0, header + 1, body) != header->crc32)
		end(STATE_FAILED, "/job is damaged");
	job->header = header;
	job->operations = (const void *)(header + 1);
	job->placements = (const void *)(job->operations + header->operations);
	job->payload = map_file("/payload", &job->payload_bytes);
	if (job->payload_bytes > header->memory_bytes)
		end(STATE_FAILED, "the payload has %zu bytes, its memory %llu",
		    job->payload_bytes, (unsigned long long)header->memory_bytes);
}

/* The pass: the outermost repeat's iteration. */
HOT static uint64_t iteration(const struct runner *runner)
{
	return runner->depth ? runner->repeats[0].iteration : 0;
}

HOT static struct step_record *new_record(const struct runner *runner, enum record_kind kind)
{
	struct step_record *record = shared_record(kind);

	record->operation = runner->operation;
	record->iteration = iteration(runner);
	return record;
}

/* --- one KVM_RUN --- */

/* BR, BLR, RET: 1101011 0000 op 11111 000000 Rn 00000 (DDI 0487, C4.1.66). */
HOT static int is_register_branch(uint32_t instruction)
{
	return (instruction & 0xff9ffc1f) == 0xd61f0000;
}

/* Only here can user space know where a register branch or an exception return must go. */
HOT static void note_register_branch(struct runner *runner, struct step_record *record)
{
	uint32_t instruction = vm_instruction(&runner->vm, vm_pc(&runner->vm));
	uint32_t rn = instruction >> 5 & 31;
	uint64_t target = CORE_REGISTER(regs.regs[0]) + 2 * rn;

	if (instruction == ERET)
		target = CORE_REGISTER(elr_el1);
	else if (!is_register_branch(instruction))
		return;
	record->flags |= FLAG_BRANCH_REGISTER;
	if (instruction == ERET || rn < 31)	/* 31 is XZR */
		record->branch_register = vm_get_register(&runner->vm, target);
}

/* What shows that L2 has taken an interrupt, and from where: at its vector nobody has changed it. */
HOT static void note_interrupt(const struct runner *runner, struct step_record *record)
{
	uint64_t offset = record->pc & VECTOR_OFFSET;

	if (offset != IRQ_FROM_EL1H && offset != IRQ_FROM_EL0)
		return;
	record->flags |= FLAG_AT_VECTOR;
	record->detail[0] = vm_get_register(&runner->vm, CORE_REGISTER(elr_el1));
	record->detail[1] = vm_get_register(&runner->vm, CORE_REGISTER(spsr[KVM_SPSR_EL1]));
}

HOT static void note_exit(const struct runner *runner, struct step_record *record)
{
	const struct kvm_run *run = runner->vm.run;

	record->exit_reason = run->exit_reason;
	switch (run->exit_reason) {
	case KVM_EXIT_DEBUG:
		record->esr = run->debug.arch.hsr;
		record->far_ = run->debug.arch.far;
		note_interrupt(runner, record);
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

HOT static struct step_record *new_run(struct runner *runner)
{
	struct step_record *record = new_record(runner, RECORD_RUN);

	if (runner->stepping) {
		record->flags |= FLAG_STEPPING;
		note_register_branch(runner, record);
	}
	return record;
}

/* Whether L2 is in its interrupt handler, and this step of it gets no placement. */
static int spares_handler(struct runner *runner)
{
	const struct job_header *header = runner->job->header;
	uint64_t pc;

	if (!header->counters)
		return 0;
	pc = vm_pc(&runner->vm);
	if (pc < header->handler_begin || pc >= header->handler_end) {
		/* Where the interrupt came before its instruction, that is next: once undisturbed. */
		int returned = runner->in_handler;

		runner->in_handler = 0;
		return returned;
	}
	runner->in_handler = 1;
	/* A sweep is of the mainline: what nests in a handler is no placement of its. */
	return runner->timer.mode == TIMER_SWEEP || ++runner->handler_steps % HANDLER_STRIDE;
}

static void note_timers(const struct runner *runner, struct step_record *record)
{
	record->flags |= FLAG_TIMER_ARMED;
	if (runner->job->header->cpu)
		record->flags |= FLAG_OTHER_CPU;
	record->armed_at = runner->armed_at;
	record->delay_ns = runner->first.delay;
	record->timer_kind = runner->first.kind;
	record->second_delay_ns = runner->second_delay;
}

/* Whether a pass that has one placement has it here. */
static int is_turn(struct runner *runner)
{
	return !runner->turns || runner->turn++ == iteration(runner) % runner->turns;
}

HOT static void arm_timers(struct runner *runner, struct step_record *record)
{
	struct placement shots[MOST_SHOTS];
	int count;

	if (runner->periodic) {
		record->flags |= FLAG_PERIODIC;
		record->delay_ns = flood_period(&record->armed_at);
		record->timer_kind = runner->timer.kind;
	}
	if (runner->armed)
		note_timers(runner, record);
	if (runner->placed)
		return;
	runner->placed = 1;
	if (runner->timer.mode == TIMER_OFF || spares_handler(runner) || !is_turn(runner))
		return;
	count = timer_next(&runner->timer, iteration(runner), shots);
	if (!count)
		return;
	runner->armed = 1;
	runner->first = shots[0];
	runner->second_delay = count > 1 ? shots[1].delay : 0;
	runner->armed_at = flood_arm(shots, count);
	note_timers(runner, record);
}

/* User space serves the exit and enters L2 again: the report is yet to come. */
HOT static int step_goes_on(const struct runner *runner, const struct step_record *record)
{
	return runner->in_step &&
	       (record->error == EINTR ||
		(!record->error && runner->vm.run->exit_reason != KVM_EXIT_DEBUG));
}

/* A timer runs on through the exits of a step that user space serves. */
HOT static void end_timers(struct runner *runner, struct step_record *record)
{
	if (!runner->armed)
		return;
	if (flood_fired(&record->acted_at))
		record->flags |= FLAG_TIMER_FIRED;
	if (step_goes_on(runner, record) && flood_pending())
		return;
	flood_disarm();
	runner->armed = 0;
}

HOT static void enter(struct runner *runner, struct step_record *record)
{
	record->entered_at = counter();
	watchdog_watch(1);
	record->error = vm_run(&runner->vm);
	mark_returned();
	watchdog_watch(0);
	record->returned_at = counter();
	shared_heartbeat();
}

HOT static void note_return(struct runner *runner, struct step_record *record)
{
	record->pc = vm_pc(&runner->vm);
	record->pstate = vm_get_register(&runner->vm, CORE_REGISTER(regs.pstate));
	if (record->error == EINTR)
		record->flags |= FLAG_EINTR;
	else
		note_exit(runner, record);
}

HOT static void check_interrupted(struct runner *runner, struct step_record *record)
{
	runner->interrupted = record->flags & FLAG_EINTR ? runner->interrupted + 1 : 0;
	if (runner->interrupted < MOST_INTERRUPTED)
		return;
	record->flags |= FLAG_STALLED;
	end(STATE_STALLED, "L2 gets no further: KVM_RUN returned EINTR %d times; PC %#llx",
	    runner->interrupted, (unsigned long long)record->pc);
}

HOT static struct step_record *run_once(struct runner *runner)
{
	struct step_record *record = new_run(runner);

	arm_timers(runner, record);
	enter(runner, record);
	end_timers(runner, record);
	note_return(runner, record);
	/* A report that came just before the watchdog's signal is no stall. */
	if (watchdog_stalled() && record->flags & FLAG_EINTR) {
		record->flags |= FLAG_STALLED;
		end(STATE_STALLED, "no return from KVM_RUN within %llu ns; PC %#llx",
		    (unsigned long long)runner->job->header->stall_ns,
		    (unsigned long long)record->pc);
	}
	check_interrupted(runner, record);
	return record;
}

HOT static void expect_exit(struct step_record *record, uint32_t reason)
{
	if (!record->error && record->exit_reason == reason)
		return;
	record->flags |= FLAG_UNEXPECTED;
	end(STATE_UNEXPECTED, "operation %u: exit reason %u (error %d) at PC %#llx, not %u",
	    record->operation, record->exit_reason, record->error,
	    (unsigned long long)record->pc, reason);
}

/* Does what an exit asks of user space; 0 if it is none that asks for something. */
HOT static int serve_exit(const struct runner *runner, const struct step_record *record)
{
	struct kvm_run *run = runner->vm.run;

	if (record->error)
		return 0;
	switch (record->exit_reason) {
	case KVM_EXIT_MMIO:
		if (!run->mmio.is_write)
			memset(run->mmio.data, MMIO_READS, run->mmio.len);
		else if (run->mmio.phys_addr == VM_DEVICE_ACKNOWLEDGE)
			vm_lower(&runner->vm, *(const uint32_t *)run->mmio.data);
		return 1;
	case KVM_EXIT_SYSTEM_EVENT:
		/* KVM has stopped the vCPU (kvm_prepare_system_event()): L2 goes on. */
		vm_make_runnable(&runner->vm);
		return 1;
	case KVM_EXIT_HYPERCALL:
		return 1;
	default:
		return 0;
	}
}

static void check_progress(struct step_record *record, int served)
{
	if (served < MOST_SERVED)
		return;
	record->flags |= FLAG_STALLED;
	end(STATE_STALLED, "L2 gets no further: %d exits that user space served; PC %#llx", served,
	    (unsigned long long)record->pc);
}

/* --- the operations --- */

static uint64_t value_to_write(const struct runner *runner, const struct operation *operation)
{
	switch (operation->kind) {
	case WRITE_VALUE:
		return operation->b;
	case WRITE_SET_BITS:
		return vm_get_register(&runner->vm, operation->a) | operation->b;
	case WRITE_CLEAR_BITS:
		return vm_get_register(&runner->vm, operation->a) & ~operation->b;
	default:
		end(STATE_FAILED, "operation %u: no such way to write: %u", runner->operation,
		    operation->kind);
	}
}

static void write_register(struct runner *runner, uint64_t id, uint64_t value)
{
	struct step_record *record = new_record(runner, RECORD_SET_REGISTER);

	record->detail[0] = id;
	record->detail[1] = value;
	vm_set_register(&runner->vm, id, value);
}

static void set_register(struct runner *runner, const struct operation *operation)
{
	write_register(runner, operation->a, value_to_write(runner, operation));
}

static void get_register(struct runner *runner, const struct operation *operation)
{
	struct step_record *record = new_record(runner, RECORD_REGISTER);

	record->detail[0] = operation->a;
	record->detail[1] = vm_get_register(&runner->vm, operation->a);
	record->detail[2] = operation->kind;
	record->detail[3] = operation->b;
}

static void set_debug(struct runner *runner, const struct operation *operation)
{
	struct step_record *record = new_record(runner, RECORD_DEBUG_CONTROL);

	record->detail[0] = operation->n;
	record->detail[1] = operation->a;
	record->detail[2] = operation->b;
	vm_set_debug(&runner->vm, operation->n, operation->a, operation->b);
	runner->stepping = (operation->n & STEPPING) == STEPPING;
	runner->debug = operation;
}

/* KVM completes what the exit before has left to do, and returns without entering L2. */
static void kick(struct runner *runner)
{
	struct step_record *record = new_run(runner);
	struct kvm_run *run = runner->vm.run;

	record->flags |= FLAG_KICKED;
	run->immediate_exit = 1;
	enter(runner, record);
	/* The watchdog sets it, too: its request stands until the next KVM_RUN. */
	run->immediate_exit = watchdog_stalled();
	note_return(runner, record);
	if (record->flags & FLAG_EINTR)
		return;
	record->flags |= FLAG_UNEXPECTED;
	end(STATE_UNEXPECTED, "operation %u: KVM_RUN with immediate_exit: exit reason %u (error %d)",
	    record->operation, record->exit_reason, record->error);
}

static void run_to_exit(struct runner *runner, const struct operation *operation)
{
	struct step_record *record;

	do {
		record = run_once(runner);
	} while (record->flags & FLAG_EINTR);
	expect_exit(record, operation->a);
	serve_exit(runner, record);
}

static void timer_from_table(struct runner *runner, const struct operation *operation)
{
	uint32_t placements = runner->job->header->placements;

	if (operation->n > placements || operation->a > placements - operation->n)
		end(STATE_FAILED, "operation %u: placements beyond the table", runner->operation);
	runner->timer.mode = TIMER_TABLE;
	runner->timer.next = runner->job->placements + operation->a;
	runner->timer.left = operation->n;
}

static void set_grid(struct runner *runner, const struct operation *operation)
{
	runner->timer.mode = TIMER_SWEEP;
	runner->timer.kind = operation->kind;
	runner->timer.grid = timer_grid(operation);
}

static void set_period(struct runner *runner, const struct operation *operation)
{
	runner->timer.kind = operation->kind;
	runner->periodic = operation->a != 0;
	flood_periodic(operation->kind, operation->a);
}

static int says_done(const struct runner *runner, const struct step_record *record)
{
	const struct kvm_run *run = runner->vm.run;

	return record->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write &&
	       run->mmio.phys_addr == VM_DEVICE_DONE;
}

/* Until L2 says that it is done; what else it asks of user space is served. */
static void run_to_done(struct runner *runner)
{
	for (int served = 0;;) {
		struct step_record *record = run_once(runner);
		int done;

		if (record->flags & FLAG_EINTR)
			continue;
		done = says_done(runner, record);
		if (!serve_exit(runner, record))
			expect_exit(record, KVM_EXIT_MMIO);
		if (done)
			return;
		check_progress(record, ++served);
	}
}

/* Not stepped, and with no placements: how L2 sets itself up, and how it ends what it has begun. */
static void call(struct runner *runner, const struct operation *operation)
{
	static const struct operation off = { .code = OP_DEBUG };
	const struct operation *debug = runner->debug;
	enum timer_mode mode = runner->timer.mode;

	runner->timer.mode = TIMER_OFF;
	/* What comes too late for L2 to handle it would count as lost. */
	flood_pause();
	set_debug(runner, &off);
	if (operation->a) {
		write_register(runner, CORE_REGISTER(regs.pc), operation->a);
		write_register(runner, CORE_REGISTER(regs.pstate), EL1H_MASKED);
	}
	run_to_done(runner);
	/* An exit for MMIO is complete only after the next KVM_RUN (KVM API, 5): not the job's. */
	kick(runner);
	set_debug(runner, debug ? debug : &off);
	flood_resume();
	runner->timer.mode = mode;
}

static void note_interrupts(struct runner *runner)
{
	const struct guest_counters *counters = flood_counters();
	struct step_record *record;

	for (int kind = 0; kind < TIMER_KINDS; kind++) {
		struct flood_sent sent = flood_sent(kind);

		if (!sent.sent && !sent.held_back)
			continue;
		record = new_record(runner, RECORD_SOURCE);
		record->detail[0] = kind;
		record->detail[1] = sent.sent;
		record->detail[2] = sent.held_back;
		record->detail[3] = counters ? counters->handled[kind] : 0;
	}
	if (counters) {
		record = new_record(runner, RECORD_GUEST);
		memcpy(record->detail, &counters->sgis_sent, sizeof(record->detail));
	}
	note_proc_interrupts(runner->operation);
}

static void init_vcpu(struct runner *runner)
{
	new_record(runner, RECORD_VCPU_INIT);
	vm_init_vcpu(&runner->vm);
}

static void write_word(struct runner *runner, const struct operation *operation)
{
	struct step_record *record = new_record(runner, RECORD_WRITE);

	record->detail[0] = operation->a;
	record->detail[1] = vm_instruction(&runner->vm, operation->a);
	record->detail[2] = operation->b;
	vm_write(&runner->vm, operation->a, operation->b);
}

static void unmap(struct runner *runner)
{
	new_record(runner, RECORD_UNMAP);
	vm_unmap(&runner->vm);
}

/* The operations that may stand anywhere, in a block as well. */
static void perform_simple(struct runner *runner, const struct operation *operation)
{
	switch (operation->code) {
	case OP_SET_REG:
		set_register(runner, operation);
		break;
	case OP_GET_REG:
		get_register(runner, operation);
		break;
	case OP_DEBUG:
		set_debug(runner, operation);
		break;
	case OP_KICK:
		kick(runner);
		break;
	case OP_RUN:
		run_to_exit(runner, operation);
		break;
	case OP_TIMER_SWEEP:
		set_grid(runner, operation);
		break;
	case OP_TIMER_SECOND:
		runner->timer.second = timer_grid(operation);
		break;
	case OP_TIMER_BURST:
		runner->timer.burst = operation->n;
		runner->timer.spacing = operation->a;
		break;
	case OP_TIMER_TURNS:
		runner->turns = operation->n;
		break;
	case OP_TIMER_PERIODIC:
		set_period(runner, operation);
		break;
	case OP_TIMER_TABLE:
		timer_from_table(runner, operation);
		break;
	case OP_TIMER_OFF:
		runner->timer.mode = TIMER_OFF;
		break;
	case OP_VCPU_INIT:
		init_vcpu(runner);
		break;
	case OP_WRITE:
		write_word(runner, operation);
		break;
	case OP_UNMAP:
		unmap(runner);
		break;
	case OP_CALL:
		call(runner, operation);
		break;
	case OP_INTERRUPTS:
		note_interrupts(runner);
		break;
	default:
		end(STATE_FAILED, "operation %u: code %u is unknown, or has no place in a block",
		    runner->operation, operation->code);
	}
}

/* --- steps, and what is done in their midst --- */

/* A step has one placement at most: no block gives it another, or has one of its own. */
HOT static void perform_block(struct runner *runner, enum occasion occasion)
{
	const struct block *block = &runner->blocks[occasion];
	uint32_t step = runner->operation;
	int placed = runner->placed;

	if (block->begin == block->end)
		return;
	runner->placed = 1;
	for (runner->operation = block->begin; runner->operation < block->end; runner->operation++)
		perform_simple(runner, &runner->job->operations[runner->operation]);
	runner->operation = step;
	runner->placed = placed;
}

/* Returns the PC of the report: a block may change it, and overwrite the record. */
HOT static uint64_t run_to_report(struct runner *runner)
{
	shared_touch(MOST_RECORDS);
	runner->placed = 0;
	runner->in_step = 1;
	for (int served = 0;;) {
		struct step_record *record = run_once(runner);

		if (record->flags & FLAG_EINTR) {
			perform_block(runner, ON_EINTR);
		} else if (serve_exit(runner, record)) {
			check_progress(record, ++served);
			perform_block(runner, ON_EXIT);
		} else {
			expect_exit(record, KVM_EXIT_DEBUG);
			runner->in_step = 0;
			return record->pc;
		}
	}
}

HOT __attribute__((noinline)) static void step(struct runner *runner, const struct operation *operation)
{
	const uint32_t most = operation->n;
	const uint64_t end_pc = operation->a;

	for (uint32_t i = 0; i < most; i++) {
		uint64_t pc = run_to_report(runner);

		perform_block(runner, ON_REPORT);
		if (pc == end_pc)
			return;
	}
}

/* --- the order of the operations --- */

/* How many operations follow this one in the innermost repeat, or in the job. */
static uint32_t operations_left(const struct runner *runner)
{
	uint32_t last = runner->depth ? runner->repeats[runner->depth - 1].end
				      : runner->job->header->operations;

	return last - (runner->operation + 1);
}

static void set_block(struct runner *runner, const struct operation *operation)
{
	uint32_t begin = runner->operation + 1;

	if (operation->kind >= OCCASIONS || operation->a > operations_left(runner))
		end(STATE_FAILED, "operation %u: a block for no occasion, or one without an end",
		    runner->operation);
	runner->blocks[operation->kind] = (struct block){ begin, begin + operation->a };
	runner->operation += operation->a;
}

static void begin_pass(struct runner *runner)
{
	struct step_record *record;

	if (runner->depth > 1)
		return;
	/* Another one of the handler's steps in each pass. */
	runner->handler_steps = PASS_STRIDE * iteration(runner);
	runner->turn = 0;
	record = new_record(runner, RECORD_PASS);
	record->operation = runner->repeats[0].begin - 1;
	record->detail[0] = iteration(runner);
}

static void begin_repeat(struct runner *runner, const struct operation *operation)
{
	struct repeat *repeat;

	if (runner->depth == REPEAT_DEPTH)
		end(STATE_FAILED, "operation %u: more than %d nested repeats", runner->operation,
		    REPEAT_DEPTH);
	if (!operation->n || !operation->a || operation->a > operations_left(runner))
		end(STATE_FAILED, "operation %u: a repeat of nothing, or one without an end",
		    runner->operation);
	repeat = &runner->repeats[runner->depth++];
	repeat->begin = runner->operation + 1;
	repeat->end = repeat->begin + operation->a;
	repeat->left = operation->n;
	repeat->iteration = 0;
	begin_pass(runner);
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
			begin_pass(runner);
			return repeat->begin;
		}
		runner->depth--;
	}
	return next;
}

static void load_payload(struct runner *runner)
{
	memcpy(runner->vm.memory, runner->job->payload, runner->job->payload_bytes);
	__builtin___clear_cache((char *)runner->vm.memory,
				(char *)runner->vm.memory + runner->job->payload_bytes);
}

static void perform(struct runner *runner, const struct operation *operation)
{
	runner->placed = 0;
	switch (operation->code) {
	case OP_STEP:
		step(runner, operation);
		break;
	case OP_REPEAT:
		begin_repeat(runner, operation);
		break;
	case OP_ON:
		set_block(runner, operation);
		break;
	default:
		perform_simple(runner, operation);
	}
}

/*
 * A table of open files that threads share is counted on at each ioctl(2), up and down (Linux
 * fs/file.c, __fget_light()). The threads keep theirs: whatever they use is open by now.
 */
static void own_open_files(void)
{
	if (unshare(CLONE_FILES))
		end(STATE_FAILED, "unshare: %s", strerror(errno));
}

/*
 * Whatever else L1 has to run runs now. As long as something waits for this CPU, L1's path from
 * KVM_RUN into L2 is another one: kvm_arch_vcpu_load() asks single_task_running() whether to trap
 * WFE and WFI, and takes 7 ns less. A window would then have two places, one before L1's first tick.
 */
static void let_others_run(void)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	nanosleep(&pause, NULL);
}

void job_run(const struct job *job)
{
	static struct runner runner;

	runner.job = job;
	vm_create(&runner.vm, job->header->load_address, job->header->memory_bytes);
	if (job->header->counters)
		vm_create_interrupts(&runner.vm);
	load_payload(&runner);
	flood_start(&runner.vm, job->header);
	watchdog_start(runner.vm.run, job->header->stall_ns);
	own_open_files();
	let_others_run();
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
