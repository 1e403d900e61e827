// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * TCG plugin: writes down, in one ordered stream, what L2 executed, where it
 * left for EL2, and where the step VMM marked (truth_abi.h).
 *
 * No package ships qemu-plugin.h, so what is used of the plugin API is declared
 * here (QEMU include/qemu/qemu-plugin.h). What only some QEMUs have is declared
 * weak and looked for at run time. PLUGIN_API is the version to ask for: a QEMU
 * refuses versions outside the range that it offers (plugins/loader.c).
 *
 * Arguments: out=FILE capacity=RECORDS begin=ADDR end=ADDR mark0=ADDR mark1=ADDR
 * … landmark0=ADDR … With no arguments, says what this QEMU offers and ends it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <crc32.h>
#include <truth_abi.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif

#define EXPORT	__attribute__((visibility("default")))
#define WEAK	__attribute__((weak))

/* --- the plugin API, as far as it is used --- */

typedef uint64_t qemu_plugin_id_t;

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_register;

enum qemu_plugin_cb_flags {
	QEMU_PLUGIN_CB_NO_REGS,
	QEMU_PLUGIN_CB_R_REGS,
};

struct qemu_info {
	const char *target_name;
	struct {
		int min;
		int cur;
	} version;
	bool system_emulation;
};

typedef void (*tb_callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*vcpu_callback)(unsigned int vcpu, void *data);
typedef void (*vcpu_simple_callback)(qemu_plugin_id_t id, unsigned int vcpu);
typedef void (*exit_callback)(qemu_plugin_id_t id, void *data);

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_callback callback);
extern void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t id, vcpu_simple_callback callback);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
						   vcpu_callback callback,
						   enum qemu_plugin_cb_flags flags, void *data);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, exit_callback callback,
					   void *data);

/* Until QEMU 9.0; without it a callback counts. */
enum qemu_plugin_op {
	QEMU_PLUGIN_INLINE_ADD_U64,
};

extern WEAK void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn,
							    enum qemu_plugin_op op, void *counter,
							    uint64_t immediate);

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
							size_t index);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);

/*
 * Until API 2 it returns a pointer to the bytes and takes no more than the
 * instruction; since API 3 (QEMU 9.1) it copies them. Arguments that a function
 * does not take do no harm in the C calling conventions of the hosts that run us.
 */
extern void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t size);
#define API_INSN_DATA_COPIES	3

/* Since QEMU 9.0. GArray and GByteArray begin with data and len (GLib's public layout). */
struct array {
	void *data;
	unsigned int len;
};

struct register_descriptor {
	struct qemu_plugin_register *handle;
	const char *name;
	const char *feature;
};

extern WEAK struct array *qemu_plugin_get_registers(void);
extern WEAK int qemu_plugin_read_register(struct qemu_plugin_register *handle,
					  struct array *buffer);
extern WEAK struct array *g_byte_array_new(void);
extern WEAK struct array *g_byte_array_set_size(struct array *array, unsigned int length);

EXPORT int qemu_plugin_version = PLUGIN_API;

/* --- the stream --- */

#define MARKS		8
#define LANDMARKS	256
#define CPUS		256
#define VECTOR_BASES	8
#define VECTOR_ALIGN	0x7ffull	/* VBAR_EL2 is 2 KiB-aligned (DDI 0487, VBAR_EL2) */
#define LOWER_EL_SLOTS	0x400		/* ... the slots for exceptions from lower ELs, */
#define SLOT_ALIGN	0x7f		/* ... each of 32 instructions (D1.4.2) */
#define REDIRECT_SLOT	0x180		/* guest_images/async_first/stub.S */
#define HINT_127	0xd5032fffu
#define MDSCR_SS	(1u << 0)
#define PSTATE_SS	(1u << 21)

static struct truth_header *header;
static struct truth_record *records;
static uint64_t marks[MARKS];

/*
 * Under -icount shift=0 an executed instruction is a nanosecond: where landmarks are asked for,
 * all instructions are counted, and a landmark's record holds the count.
 */
static uint64_t landmarks[LANDMARKS];
static unsigned int landmark_count;
static uint64_t executed;

/* Where EL2's vectors were seen. KVM swaps VBAR_EL2 at each world switch; see vector_slot(). */
static uint64_t vector_bases[VECTOR_BASES];
static unsigned int vector_base_count;

/* Per L1 CPU: L2 has executed something since its last exit. */
static bool in_l2[CPUS];
static struct qemu_plugin_register *pstate_register[CPUS], *mdscr_register[CPUS];
static struct array *register_buffer;

static struct truth_record *append(unsigned int cpu, enum truth_kind kind, uint64_t pc,
				   uint32_t detail)
{
	static struct truth_record overflow;
	uint64_t index = __atomic_fetch_add(&header->count, 1, __ATOMIC_RELAXED);

	if (index >= header->capacity) {
		__atomic_fetch_sub(&header->count, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&header->dropped, 1, __ATOMIC_RELAXED);
		return &overflow;
	}
	records[index] = (struct truth_record){
		.pc = pc,
		.detail = detail,
		.kind = kind,
		.cpu = cpu,
	};
	return &records[index];
}

static void append_count(unsigned int cpu, uint64_t pc)
{
	if (landmark_count)
		append(cpu, TRUTH_LANDMARK, pc, executed);
}

static bool read_register(struct qemu_plugin_register *handle, uint32_t *value)
{
	if (!handle)
		return false;
	g_byte_array_set_size(register_buffer, 0);
	if (qemu_plugin_read_register(handle, register_buffer) < (int)sizeof(*value))
		return false;
	memcpy(value, register_buffer->data, sizeof(*value));
	return true;
}

/* KVM sets MDCR_EL2.TDE for a debugged guest, so stepping is never off at L2's EL0 and EL1. */
static enum step_state step_state(unsigned int cpu)
{
	uint32_t mdscr, pstate;

	if (!read_register(mdscr_register[cpu], &mdscr) ||
	    !read_register(pstate_register[cpu], &pstate))
		return STEP_STATE_UNKNOWN;
	if (!(mdscr & MDSCR_SS))
		return STEP_INACTIVE;
	return pstate & PSTATE_SS ? STEP_ACTIVE_NOT_PENDING : STEP_ACTIVE_PENDING;
}

/* data: the PC, with the size in the top byte, which no payload address uses. */
static void instruction_executed(unsigned int cpu, void *data)
{
	uint64_t packed = (uintptr_t)data, pc = packed & (~0ull >> 8);
	struct truth_record *record;

	append_count(cpu, pc);
	record = append(cpu, TRUTH_INSTRUCTION, pc, 0);

	in_l2[cpu] = true;
	record->size = packed >> 56;
	record->step_state = step_state(cpu);
}

static bool is_redirect(uint64_t address)
{
	return (address & VECTOR_ALIGN) == REDIRECT_SLOT;
}

static bool known_base(uint64_t base)
{
	for (unsigned int i = 0; i < vector_base_count; i++)
		if (vector_bases[i] == base)
			return true;
	return false;
}

/*
 * A translation block began at what may be a lower-EL vector slot. The first such
 * slot after an L2 instruction is KVM's: L2's own vectors lie in L2's range, and
 * L1's kernel can't run before KVM's vector has. What was learnt once is KVM's
 * for good, which makes exits before the first instruction of an entry visible.
 */
static void vector_slot(unsigned int cpu, void *data)
{
	uint64_t address = (uintptr_t)data, base = address & ~VECTOR_ALIGN;

	if (in_l2[cpu] && !is_redirect(address) && !known_base(base) &&
	    vector_base_count < VECTOR_BASES) {
		vector_bases[vector_base_count++] = base;
		append(cpu, TRUTH_VECTOR, base, 0);
	}
	if (!known_base(base))
		return;
	in_l2[cpu] = false;
	/* A redirect comes right after its exit. */
	if (!is_redirect(address))
		append_count(cpu, address);
	append(cpu, is_redirect(address) ? TRUTH_REDIRECT : TRUTH_EXIT, address,
	       address & VECTOR_ALIGN);
}

static void marked(unsigned int cpu, void *data)
{
	uintptr_t number = (uintptr_t)data;

	append(cpu, TRUTH_MARK, marks[number], number);
}

static void landmark_reached(unsigned int cpu, void *data)
{
	append_count(cpu, (uintptr_t)data);
}

static void instruction_counted(unsigned int cpu, void *unused)
{
	(void)cpu;
	(void)unused;
	executed++;
}

/* --- translation: callbacks only where they are wanted --- */

static uint32_t instruction_word(const struct qemu_plugin_insn *insn)
{
	uint32_t word = 0;
	void *data;

	if (qemu_plugin_insn_size(insn) != sizeof(word))
		return 0;
	data = qemu_plugin_insn_data(insn, &word, sizeof(word));
	if (header->api_current < API_INSN_DATA_COPIES)
		memcpy(&word, data, sizeof(word));
	return word;
}

static bool in_range(uint64_t address)
{
	return address - header->range_begin < header->range_end - header->range_begin;
}

/* Synchronous, IRQ, FIQ, SError from a lower EL: AArch64 at 0x400, AArch32 at 0x600. */
static bool may_be_vector_slot(uint64_t address)
{
	return !(address & SLOT_ALIGN) &&
	       ((address & VECTOR_ALIGN) >= LOWER_EL_SLOTS || is_redirect(address));
}

static void watch_l2(struct qemu_plugin_tb *tb, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t packed = qemu_plugin_insn_vaddr(insn) |
				  (uint64_t)qemu_plugin_insn_size(insn) << 56;

		qemu_plugin_register_vcpu_insn_exec_cb(insn, instruction_executed,
						       header->reads_registers ?
						       QEMU_PLUGIN_CB_R_REGS :
						       QEMU_PLUGIN_CB_NO_REGS,
						       (void *)(uintptr_t)packed);
	}
}

static void watch_marks(struct qemu_plugin_tb *tb, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		for (uintptr_t number = 0; number < MARKS; number++)
			if (marks[number] && qemu_plugin_insn_vaddr(insn) == marks[number] &&
			    instruction_word(insn) == HINT_127)
				qemu_plugin_register_vcpu_insn_exec_cb(insn, marked,
								       QEMU_PLUGIN_CB_NO_REGS,
								       (void *)number);
	}
}

static bool holds_mark(uint64_t begin, size_t count)
{
	for (unsigned int i = 0; i < MARKS; i++)
		if (marks[i] && marks[i] - begin < 4 * count)
			return true;
	return false;
}

static bool is_landmark(uint64_t address)
{
	for (unsigned int i = 0; i < landmark_count; i++)
		if (landmarks[i] == address)
			return true;
	return false;
}

/* Each landmark is before, or each is after, the count of its own instruction: it cancels out. */
static void count_and_watch_landmarks(struct qemu_plugin_tb *tb, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t address = qemu_plugin_insn_vaddr(insn);

		if (qemu_plugin_register_vcpu_insn_exec_inline)
			qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64,
								   &executed, 1);
		else
			qemu_plugin_register_vcpu_insn_exec_cb(insn, instruction_counted,
							       QEMU_PLUGIN_CB_NO_REGS, NULL);
		if (is_landmark(address))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, landmark_reached,
							       QEMU_PLUGIN_CB_NO_REGS,
							       (void *)(uintptr_t)address);
	}
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t count = qemu_plugin_tb_n_insns(tb);
	uint64_t address = qemu_plugin_tb_vaddr(tb);

	(void)id;
	if (landmark_count)
		count_and_watch_landmarks(tb, count);
	if (in_range(address))
		watch_l2(tb, count);
	else if (holds_mark(address, count))
		watch_marks(tb, count);
	else if (may_be_vector_slot(address))
		qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_tb_get_insn(tb, 0), vector_slot,
						       QEMU_PLUGIN_CB_NO_REGS,
						       (void *)(uintptr_t)address);
}

/* --- start and end --- */

static void fail(const char *what, const char *detail)
{
	fprintf(stderr, "qemu-diff plugin: %s: %s\n", what, detail);
	exit(1);
}

static void vcpu_started(qemu_plugin_id_t id, unsigned int vcpu)
{
	struct array *registers;

	(void)id;
	if (vcpu >= CPUS)
		fail("too many CPUs", "at most 256");
	if (!header->reads_registers)
		return;
	registers = qemu_plugin_get_registers();
	for (unsigned int i = 0; i < registers->len; i++) {
		const struct register_descriptor *descriptor =
			(const struct register_descriptor *)registers->data + i;

		if (!strcmp(descriptor->name, "cpsr"))
			pstate_register[vcpu] = descriptor->handle;
		if (!strcmp(descriptor->name, "MDSCR_EL1"))
			mdscr_register[vcpu] = descriptor->handle;
	}
}

static void seal(qemu_plugin_id_t id, void *unused)
{
	(void)id;
	(void)unused;
	header->crc32 = crc32_of(0, records, header->count * sizeof(*records));
	header->sealed = 1;
}

static void open_stream(const char *path, uint64_t capacity)
{
	size_t bytes = TRUTH_HEADER_BYTES + capacity * sizeof(struct truth_record);
	/* The host has made the file and reserved its blocks: a full disk is found before the run. */
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail(path, strerror(errno));
	header = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (header == MAP_FAILED)
		fail(path, strerror(errno));
	close(fd);
	records = (void *)((char *)header + TRUTH_HEADER_BYTES);
	header->version = TRUTH_ABI_VERSION;
	header->record_bytes = sizeof(struct truth_record);
	header->capacity = capacity;
	header->magic = TRUTH_MAGIC;
}

static void set_argument(const char *argument, const char **path, uint64_t *capacity,
			 uint64_t *begin, uint64_t *end)
{
	const char *value = strchr(argument, '=');
	unsigned int number;

	if (!value++)
		fail("argument without a value", argument);
	if (!strncmp(argument, "out=", 4))
		*path = value;
	else if (!strncmp(argument, "capacity=", 9))
		*capacity = strtoull(value, NULL, 0);
	else if (!strncmp(argument, "begin=", 6))
		*begin = strtoull(value, NULL, 0);
	else if (!strncmp(argument, "end=", 4))
		*end = strtoull(value, NULL, 0);
	else if (sscanf(argument, "mark%u=", &number) == 1 && number < MARKS)
		marks[number] = strtoull(value, NULL, 0);
	else if (sscanf(argument, "landmark%u=", &number) == 1 && landmark_count < LANDMARKS)
		landmarks[landmark_count++] = strtoull(value, NULL, 0);
	else
		fail("unknown argument", argument);
}

static void describe(const struct qemu_info *info)
{
	printf("qemu-diff plugin: api %d %d registers %d\n", info->version.min, info->version.cur,
	       qemu_plugin_get_registers && qemu_plugin_read_register);
	fflush(stdout);
	_exit(0);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc,
			       char **argv)
{
	uint64_t capacity = 0, begin = 0, end = 0;
	const char *path = NULL;

	if (!argc)
		describe(info);
	for (int i = 0; i < argc; i++)
		set_argument(argv[i], &path, &capacity, &begin, &end);
	if (!path || !capacity || begin >= end)
		fail("arguments", "out=, capacity=, begin= and end= are needed");
	open_stream(path, capacity);
	header->range_begin = begin;
	header->range_end = end;
	header->api_min = info->version.min;
	header->api_current = info->version.cur;
	header->reads_registers = qemu_plugin_get_registers && qemu_plugin_read_register &&
				  g_byte_array_new && g_byte_array_set_size;
	if (header->reads_registers)
		register_buffer = g_byte_array_new();
	qemu_plugin_register_vcpu_init_cb(id, vcpu_started);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, seal, NULL);
	return 0;
}
