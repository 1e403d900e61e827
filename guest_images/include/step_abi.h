/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stepvmm reads (the job) and writes (the shared region): fixed-width,
 * little-endian, versioned. qemu_diff/abi.py holds the same layouts; a test
 * compares the two, member by member.
 */
#ifndef QEMU_DIFF_STEP_ABI_H
#define QEMU_DIFF_STEP_ABI_H

#include <stdint.h>

#define STEP_ABI_VERSION	3

/* --- the job: a header, the operations, the table of placements --- */

#define JOB_MAGIC		0x424f4a4646494451ull	/* "QDIFFJOB" */

struct job_header {
	uint64_t magic;
	uint32_t version;
	uint32_t crc32;			/* of all that follows the header */
	uint32_t operations;
	uint32_t placements;		/* struct placement each, after the operations */
	uint64_t load_address;		/* IPA of the payload, page-aligned */
	uint64_t memory_bytes;		/* of the memory slot there */
	uint64_t stall_ns;		/* of virtual time without a return from KVM_RUN */
	uint64_t counters;		/* IPA of struct guest_counters; 0: L2 has no handler */
	uint64_t handler_begin;		/* L2's interrupt handler: [begin, end) */
	uint64_t handler_end;
	uint32_t cpu;			/* of L1: L2's vCPU runs there, interrupts come from CPU 0 */
	uint32_t reserved;
};

enum operation_code {
	OP_SET_REG = 1,		/* a: KVM register id, b: value; kind: enum write_kind */
	OP_GET_REG = 2,		/* a: KVM register id, b: value expected; kind: enum read_kind */
	OP_DEBUG = 3,		/* KVM_SET_GUEST_DEBUG; n: control, a: DBGBVR0_EL1, b: DBGBCR0_EL1 */
	OP_KICK = 4,		/* KVM_RUN with kvm_run.immediate_exit: it returns -EINTR */
	OP_STEP = 5,		/* n: reports at most, a: PC at which to stop */
	OP_RUN = 6,		/* one KVM_RUN; a: the exit reason expected */
	OP_TIMER_SWEEP = 7,	/* before each step: see struct grid in timer.h; kind: enum timer_kind */
	OP_TIMER_TABLE = 8,	/* before each step: the next of n placements from index a on */
	OP_TIMER_OFF = 9,
	OP_REPEAT = 10,		/* the next a operations, n times */
	OP_ON = 11,		/* the next a operations, whenever STEP meets kind: enum occasion */
	OP_VCPU_INIT = 12,	/* KVM_ARM_VCPU_INIT again: resets the vCPU */
	OP_WRITE = 13,		/* a: IPA, b: the 32-bit word for it */
	OP_UNMAP = 14,		/* takes L2's memory slot away and gives it back: stage 2 is empty */
	OP_TIMER_SECOND = 15,	/* a second interrupt in each step: as OP_TIMER_SWEEP */
	OP_TIMER_BURST = 16,	/* each placement is followed by n more, a ns apart */
	OP_TIMER_PERIODIC = 17,	/* from now on each a ns, whatever is stepped; kind: enum timer_kind */
	OP_CALL = 18,		/* unstepped, from PC a, or from where L2 is, until it says VM_DONE */
	OP_TIMER_TURNS = 20,	/* one placement a pass: of n steps, that whose turn it is */
	OP_INTERRUPTS = 19,	/* a record for each line of /proc/interrupts, and of each source */
};

/* How SET_REG makes the register's new value from b. */
enum write_kind {
	WRITE_VALUE = 0,
	WRITE_SET_BITS = 1,
	WRITE_CLEAR_BITS = 2,
};

/* Whether the job knows what GET_REG reads. */
enum read_kind {
	READ_ANY = 0,
	READ_EXPECTED = 1,
};

/* What STEP may meet. A block has no STEP, ON or REPEAT of its own; a later ON replaces it. */
enum occasion {
	ON_REPORT = 0,		/* a debug exit, before STEP looks whether it is done */
	ON_EINTR = 1,		/* KVM_RUN returned -EINTR */
	ON_EXIT = 2,		/* another exit that user space serves: MMIO, a system event */
};

/* What a timer does when it fires. From TIMER_SPI_EDGE on another thread of the VMM does it. */
enum timer_kind {
	TIMER_INTERRUPT = 0,	/* interrupts L1, and no more */
	TIMER_SIGNAL = 1,	/* signals the vCPU thread, too: KVM_RUN returns -EINTR */
	TIMER_SPI_EDGE = 2,	/* KVM_IRQ_LINE: an SPI, up and down */
	TIMER_SPI_LEVEL = 3,	/* ... up: L2's handler has it lowered */
	TIMER_IRQFD = 4,	/* an eventfd that KVM_IRQFD joins to an SPI */
	TIMER_PPI = 5,		/* KVM_IRQ_LINE: a PPI, up */
	TIMER_LPI = 6,		/* KVM_SIGNAL_MSI */
	TIMER_VTIMER = 7,	/* nothing: it is L2's own virtual timer that fires */
	TIMER_MEMSLOT = 8,	/* deletes a memory slot that L2 does not use, or sets it */
	TIMER_DIRTY_LOG = 9,	/* KVM_MEM_LOG_DIRTY_PAGES of L2's memory, on or off */
	TIMER_KINDS = 10,
};

/* One interrupt; a delay of 0 is none. */
struct placement {
	uint32_t delay;			/* ns from arming */
	uint32_t kind;			/* enum timer_kind */
};

/* What L2's handler counts (payloads/payload.inc). */
struct guest_counters {
	uint64_t handled[TIMER_KINDS];
	uint64_t sgis_sent;
	uint64_t sgis_handled;
	uint64_t spurious;		/* ICC_IAR1_EL1 gave 1023, or an INTID that nobody sends */
	uint64_t nested;		/* taken while another was handled */
};

struct operation {
	uint16_t code;
	uint16_t kind;
	uint32_t n;
	uint64_t a;
	uint64_t b;
};

/* --- the shared region: a page of header, then the records --- */

#define SHARED_MAGIC		0x4d48534646494451ull	/* "QDIFFSHM" */
#define SHARED_HEADER_BYTES	4096

enum shared_state {
	STATE_EMPTY = 0,
	STATE_RUNNING = 1,
	STATE_DONE = 2,
	STATE_STALLED = 3,	/* L2 made no progress for stall_ns */
	STATE_FAILED = 4,	/* message says why */
	STATE_NO_KVM = 5,	/* this kernel offers no usable /dev/kvm */
	STATE_UNEXPECTED = 6,	/* an exit that the job did not expect; the last record holds it */
};

struct shared_header {
	uint64_t magic;
	uint32_t version;
	uint32_t record_bytes;
	uint64_t capacity;		/* records */
	uint64_t count;
	uint64_t dropped;		/* records that found no room */
	uint64_t heartbeat;		/* returns from KVM_RUN */
	uint32_t state;
	uint32_t crc32;			/* of the records and struct shared_seal, at the end */
	uint64_t counter_hz;		/* CNTFRQ_EL0 */
	char message[512];
};

/* What the checksum covers beside the records. */
struct shared_seal {
	uint64_t count;
	uint64_t dropped;
	uint64_t heartbeat;
	uint64_t counter_hz;
	uint64_t state;
};

enum record_kind {
	RECORD_RUN = 1,			/* one return from KVM_RUN */
	RECORD_REGISTER = 2,		/* detail: register id, value, enum read_kind, expected */
	RECORD_SET_REGISTER = 3,	/* detail: register id, the value written */
	RECORD_DEBUG_CONTROL = 4,	/* detail: kvm_guest_debug.control, DBGBVR0, DBGBCR0 */
	RECORD_PASS = 5,		/* detail: the iteration that begins */
	RECORD_VCPU_INIT = 6,
	RECORD_WRITE = 7,		/* detail: IPA, the word before, the word after */
	RECORD_UNMAP = 8,
	RECORD_SOURCE = 9,		/* detail: enum timer_kind, sent, held back, handled by L2 */
	RECORD_INTERRUPT = 10,		/* detail: INTID, or FROM_IPI + n; count; 16 bytes of name */
	RECORD_GUEST = 11,		/* detail: guest_counters from sgis_sent on */
};

#define FROM_IPI	(1ull << 32)

enum record_flag {
	FLAG_STEPPING = 1 << 0,		/* single-step was on */
	FLAG_EINTR = 1 << 1,		/* KVM_RUN returned -EINTR */
	FLAG_TIMER_ARMED = 1 << 2,
	FLAG_TIMER_FIRED = 1 << 3,	/* the timer had expired at the return */
	FLAG_UNEXPECTED = 1 << 4,
	FLAG_STALLED = 1 << 5,
	FLAG_BRANCH_REGISTER = 1 << 6,	/* branch_register is valid */
	FLAG_KICKED = 1 << 7,		/* immediate_exit was set */
	FLAG_AT_VECTOR = 1 << 8,	/* PC is at an IRQ vector's offset; detail: ELR_EL1, SPSR_EL1 */
	FLAG_PERIODIC = 1 << 9,		/* a periodic timer runs: armed_at, delay_ns are its own */
	FLAG_OTHER_CPU = 1 << 10,	/* the timer is another CPU's: acted_at is when it came */
	FLAG_UNTIMED = 1 << 11,	/* by a debugger outside of L1: no times */
};

struct step_record {
	uint32_t sequence;
	uint16_t kind;
	uint16_t operation;		/* index into the job */
	uint32_t flags;
	uint32_t exit_reason;		/* KVM_EXIT_* */
	uint64_t pc;
	uint64_t pstate;
	uint32_t esr;			/* kvm_run.debug.arch.hsr */
	int32_t error;			/* errno of KVM_RUN, or 0 */
	uint64_t far_;			/* kvm_run.debug.arch.far */
	uint64_t armed_at;		/* CNTVCT_EL0 before the timer was armed */
	uint64_t entered_at;		/* CNTVCT_EL0 before KVM_RUN */
	uint64_t returned_at;		/* CNTVCT_EL0 after it */
	uint64_t delay_ns;		/* the requested delay from armed_at */
	uint64_t branch_register;	/* Xn of the BR, BLR or RET at the PC before; ELR_EL1 of an ERET */
	uint64_t iteration;
	uint64_t detail[4];		/* what else of kvm_run explains the exit */
	uint64_t acted_at;		/* CNTVCT_EL0 when another thread acted; 0: it did not */
	uint32_t second_delay_ns;	/* of the step's second placement; 0: none */
	uint32_t timer_kind;		/* enum timer_kind of the first, where a timer was armed */
};

_Static_assert(sizeof(struct job_header) == 80, "job header");
_Static_assert(sizeof(struct operation) == 24, "operation");
_Static_assert(sizeof(struct shared_header) <= SHARED_HEADER_BYTES, "shared header");
_Static_assert(sizeof(struct step_record) == 144, "record");

#endif
