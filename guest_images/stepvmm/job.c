// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The job interpreter. Operations are data (step_abi.h): a new scenario is a
 * new job, not new C.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <crc32.h>

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
#define STEPPING	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)

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
	int stepping;
	int placed;			/* the step has had its one placement */
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

/* The pass: the outermost repeat's iteration. */
static uint64_t iteration(const struct runner *runner)
{
	return runner->depth ? runner->repeats[0].iteration : 0;
}

static struct step_record *new_record(const struct runner *runner, enum record_kind kind)
{
	struct step_record *record = shared_record(kind);

	record->operation = runner->operation;
	record->iteration = iteration(runner);
	return record;
}

/* --- one KVM_RUN --- */

/* BR, BLR, RET: 1101011 0000 op 11111 000000 Rn 00000 (DDI 0487, C4.1.66). */
static int is_register_branch(uint32_t instruction)
{
	return (instruction & 0xff9ffc1f) == 0xd61f0000;
}

/* Only here can user space know where a register branch or an exception return must go. */
static void note_register_branch(const struct runner *runner, struct step_record *record)
{
	uint64_t pc = vm_get_register(&runner->vm, CORE_REGISTER(regs.pc));
	uint32_t instruction = vm_instruction(&runner->vm, pc);
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

static struct step_record *new_run(const struct runner *runner)
{
	struct step_record *record = new_record(runner, RECORD_RUN);

	if (runner->stepping) {
		record->flags |= FLAG_STEPPING;
		note_register_branch(runner, record);
	}
	return record;
}

static void arm_timer(struct runner *runner, struct step_record *record)
{
	uint64_t delay;

	if (runner->placed)
		return;
	runner->placed = 1;
	delay = timer_next_delay(&runner->timer, iteration(runner));
	if (!delay)
		return;
	record->flags |= FLAG_TIMER_ARMED;
	record->delay_ns = delay;
	record->armed_at = counter();
	timer_set(&runner->timer, delay);
}

static void disarm_timer(struct runner *runner, struct step_record *record)
{
	if (!(record->flags & FLAG_TIMER_ARMED))
		return;
	if (timer_fired(&runner->timer))
		record->flags |= FLAG_TIMER_FIRED;
	else
		timer_set(&runner->timer, 0);
}

static void enter(struct runner *runner, struct step_record *record)
{
	int result;

	record->entered_at = counter();
	watchdog_watch(1);
	result = ioctl(runner->vm.vcpu, KVM_RUN, 0);
	mark_returned();
	watchdog_watch(0);
	record->error = result < 0 ? errno : 0;
	record->returned_at = counter();
	shared_heartbeat();
}

static void note_return(const struct runner *runner, struct step_record *record)
{
	record->pc = vm_get_register(&runner->vm, CORE_REGISTER(regs.pc));
	record->pstate = vm_get_register(&runner->vm, CORE_REGISTER(regs.pstate));
	if (record->error == EINTR)
		record->flags |= FLAG_EINTR;
	else
		note_exit(record, runner->vm.run);
}

static struct step_record *run_once(struct runner *runner)
{
	struct step_record *record = new_run(runner);

	arm_timer(runner, record);
	enter(runner, record);
	disarm_timer(runner, record);
	note_return(runner, record);
	/* A report that came just before the watchdog's signal is no stall. */
	if (watchdog_stalled() && record->flags & FLAG_EINTR) {
		record->flags |= FLAG_STALLED;
		end(STATE_STALLED, "no return from KVM_RUN within %llu ns; PC %#llx",
		    (unsigned long long)runner->job->header->stall_ns,
		    (unsigned long long)record->pc);
	}
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

/* Does what an exit asks of user space; 0 if it is none that asks for something. */
static int serve_exit(const struct runner *runner, const struct step_record *record)
{
	struct kvm_run *run = runner->vm.run;

	if (record->error)
		return 0;
	switch (record->exit_reason) {
	case KVM_EXIT_MMIO:
		if (!run->mmio.is_write)
			memset(run->mmio.data, MMIO_READS, run->mmio.len);
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

static void set_register(struct runner *runner, const struct operation *operation)
{
	struct step_record *record = new_record(runner, RECORD_SET_REGISTER);
	uint64_t value = value_to_write(runner, operation);

	record->detail[0] = operation->a;
	record->detail[1] = value;
	vm_set_register(&runner->vm, operation->a, value);
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
	uint32_t delays = runner->job->header->delays;

	if (operation->n > delays || operation->a > delays - operation->n)
		end(STATE_FAILED, "operation %u: delays beyond the table", runner->operation);
	timer_table(&runner->timer, operation, runner->job->delays + operation->a);
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
		timer_sweep(&runner->timer, operation);
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
	default:
		end(STATE_FAILED, "operation %u: code %u is unknown, or has no place in a block",
		    runner->operation, operation->code);
	}
}

/* --- steps, and what is done in their midst --- */

/* A step has one placement at most: no block gives it another, or has one of its own. */
static void perform_block(struct runner *runner, enum occasion occasion)
{
	const struct block *block = &runner->blocks[occasion];
	uint32_t step = runner->operation;
	int placed = runner->placed;

	runner->placed = 1;
	for (runner->operation = block->begin; runner->operation < block->end; runner->operation++)
		perform_simple(runner, &runner->job->operations[runner->operation]);
	runner->operation = step;
	runner->placed = placed;
}

/* Returns the PC of the report: a block may change it, and overwrite the record. */
static uint64_t run_to_report(struct runner *runner)
{
	runner->placed = 0;
	for (;;) {
		struct step_record *record = run_once(runner);

		if (record->flags & FLAG_EINTR) {
			perform_block(runner, ON_EINTR);
		} else if (serve_exit(runner, record)) {
			perform_block(runner, ON_EXIT);
		} else {
			expect_exit(record, KVM_EXIT_DEBUG);
			return record->pc;
		}
	}
}

static void step(struct runner *runner, const struct operation *operation)
{
	for (uint32_t i = 0; i < operation->n; i++) {
		uint64_t pc = run_to_report(runner);

		perform_block(runner, ON_REPORT);
		if (pc == operation->a)
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

void job_run(const struct job *job)
{
	static struct runner runner;

	runner.job = job;
	timer_create_both(&runner.timer);
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
