/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the TCG plugin writes: one ordered stream of what L2 executed, where it
 * left, and where the step VMM marked. qemu_diff/abi.py holds the same layout.
 */
#ifndef QEMU_DIFF_TRUTH_ABI_H
#define QEMU_DIFF_TRUTH_ABI_H

#include <stdint.h>

#define TRUTH_ABI_VERSION	2
#define TRUTH_MAGIC		0x5552544646494451ull	/* "QDIFFTRU" */
#define TRUTH_HEADER_BYTES	4096

struct truth_header {
	uint64_t magic;
	uint32_t version;
	uint32_t record_bytes;
	uint64_t capacity;		/* records */
	uint64_t count;
	uint64_t dropped;		/* records that found no room: the overflow flag */
	uint64_t range_begin;		/* L2's range: [begin, end) */
	uint64_t range_end;
	uint32_t sealed;		/* 1 once QEMU ended in order and crc32 is valid */
	uint32_t crc32;			/* of the records */
	uint32_t api_min;		/* plugin API versions that this QEMU offers */
	uint32_t api_current;
	uint32_t reads_registers;	/* whether step_state is known */
	uint32_t reserved;
};

enum truth_kind {
	TRUTH_INSTRUCTION = 1,	/* an L2 instruction, executed or phantom */
	TRUTH_EXIT = 2,		/* an EL2 vector's lower-EL slot; detail: its offset */
	TRUTH_MARK = 3,		/* the step VMM's reserved no-op; detail: the mark's number */
	TRUTH_VECTOR = 4,	/* an EL2 vector base was learnt; pc: the base */
	TRUTH_REDIRECT = 5,	/* the async_first stub turns a step exception into an IRQ */
	/*
	 * Only where landmarks were asked for: an address was come to, or what the next
	 * record tells of; detail: instructions executed so far, modulo 2^32.
	 */
	TRUTH_LANDMARK = 6,
};

/* The software step state before an instruction (DDI 0487, D2.12.3). */
enum step_state {
	STEP_STATE_UNKNOWN = 0,	/* this QEMU lets no plugin read registers */
	STEP_INACTIVE = 1,
	STEP_ACTIVE_NOT_PENDING = 2,
	STEP_ACTIVE_PENDING = 3,
};

struct truth_record {
	uint64_t pc;
	uint32_t detail;
	uint8_t kind;
	uint8_t cpu;		/* the L1 CPU */
	uint8_t size;		/* INSTRUCTION: bytes that TCG fetched */
	uint8_t step_state;	/* INSTRUCTION: enum step_state */
};

_Static_assert(sizeof(struct truth_header) <= TRUTH_HEADER_BYTES, "truth header");
_Static_assert(sizeof(struct truth_record) == 16, "truth record");

#endif
