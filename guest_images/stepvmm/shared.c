// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The region that both L1 and the host map: QEMU's ivshmem-plain, a PCI device
 * whose BAR 2 is the memory (QEMU docs/specs/ivshmem-spec.rst).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include <crc32.h>

#include "hot.h"
#include "shared.h"

#define PCI_DEVICES		"/sys/bus/pci/devices"
#define IVSHMEM_VENDOR		"0x1af4"
#define IVSHMEM_DEVICE		"0x1110"
#define PAGE			4096ul	/* or more, and then it is touched more often */

static struct shared_header *header;
static struct step_record *records;
static struct step_record scratch;
static uintptr_t touched;		/* the page that was touched last */

static int attribute_is(const char *device, const char *name, const char *value)
{
	char path[512], text[16] = "";
	int fd;
	ssize_t size;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", device, name);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	return size > 0 && !strncmp(text, value, strlen(value));
}

static int find_ivshmem(char *name, size_t size)
{
	DIR *devices = opendir(PCI_DEVICES);
	struct dirent *entry;
	int found = 0;

	if (!devices)
		return 0;
	while (!found && (entry = readdir(devices))) {
		if (!attribute_is(entry->d_name, "vendor", IVSHMEM_VENDOR) ||
		    !attribute_is(entry->d_name, "device", IVSHMEM_DEVICE))
			continue;
		snprintf(name, size, "%s", entry->d_name);
		found = 1;
	}
	closedir(devices);
	return found;
}

/* Memory decoding is off until somebody asks for it: no driver binds to the device. */
static void enable_device(const char *device)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/enable", device);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "1", 1) != 1)
		end(STATE_FAILED, "%s: %s", path, strerror(errno));
	close(fd);
}

void shared_open(void)
{
	char device[256], path[512];
	struct stat status;
	void *region;
	int fd;

	if (!find_ivshmem(device, sizeof(device)))
		end(STATE_FAILED, "no ivshmem device (%s:%s) on the PCI bus",
		    IVSHMEM_VENDOR, IVSHMEM_DEVICE);
	enable_device(device);
	snprintf(path, sizeof(path), PCI_DEVICES "/%s/resource2", device);
	fd = open(path, O_RDWR);
	if (fd < 0 || fstat(fd, &status))
		end(STATE_FAILED, "%s: %s", path, strerror(errno));
	region = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (region == MAP_FAILED)
		end(STATE_FAILED, "mapping %s: %s", path, strerror(errno));
	close(fd);

	header = region;
	records = (void *)((char *)region + SHARED_HEADER_BYTES);
	header->version = STEP_ABI_VERSION;
	header->record_bytes = sizeof(struct step_record);
	header->capacity = (status.st_size - SHARED_HEADER_BYTES) / sizeof(struct step_record);
	header->state = STATE_RUNNING;
	asm("mrs %0, cntfrq_el0" : "=r"(header->counter_hz));
	header->magic = SHARED_MAGIC;
}

HOT struct step_record *shared_record(enum record_kind kind)
{
	struct step_record *record = &scratch;

	if (header->count < header->capacity)
		record = &records[header->count++];
	else
		header->dropped++;
	memset(record, 0, sizeof(*record));
	record->sequence = header->count - 1;
	record->kind = kind;
	return record;
}

HOT void shared_touch(uint64_t ahead)
{
	uint64_t index = header->count + ahead;
	uintptr_t page = (uintptr_t)&records[index] & -PAGE;

	if (index >= header->capacity || page == touched)
		return;
	*(volatile uint32_t *)&records[index].sequence = 0;
	touched = page;
}

HOT void shared_heartbeat(void)
{
	__atomic_fetch_add(&header->heartbeat, 1, __ATOMIC_RELEASE);
}

uint64_t shared_progress(void)
{
	return __atomic_load_n(&header->heartbeat, __ATOMIC_ACQUIRE);
}

void shared_close(enum shared_state state, const char *message)
{
	struct shared_seal seal = {
		.count = header->count,
		.dropped = header->dropped,
		.heartbeat = header->heartbeat,
		.counter_hz = header->counter_hz,
		.state = state,
	};
	uint32_t crc = crc32_of(0, records, header->count * sizeof(*records));

	snprintf(header->message, sizeof(header->message), "%s", message);
	header->crc32 = crc32_of(crc, &seal, sizeof(seal));
	__atomic_store_n(&header->state, state, __ATOMIC_RELEASE);
}

void end(enum shared_state state, const char *format, ...)
{
	char message[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	if (state != STATE_DONE)
		printf("stepvmm: %s\n", message);
	fflush(stdout);
	if (header)
		shared_close(state, message);
	reboot(RB_POWER_OFF);
	_exit(1);	/* PID 1 must not get here: the kernel panics, which the host sees */
}
