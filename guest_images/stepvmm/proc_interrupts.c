// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proc_interrupts.h"
#include "shared.h"

#define LINE	512
#define NAME	(2 * sizeof(uint64_t))

/* The sum over the CPUs; *rest: what follows the numbers. */
static uint64_t counts(char *text, char **rest)
{
	uint64_t sum = 0;

	for (;;) {
		char *end;
		uint64_t number = strtoull(text, &end, 10);

		/* "GICv3" and "27": what is no number, and the first number after it. */
		if (end == text || (*end && *end != ' ' && *end != '\n'))
			break;
		sum += number;
		text = end;
	}
	*rest = text;
	return sum;
}

static void note(uint32_t operation, uint64_t number, uint64_t count, const char *name)
{
	struct step_record *record = shared_record(RECORD_INTERRUPT);

	record->operation = operation;
	record->detail[0] = number;
	record->detail[1] = count;
	memcpy(&record->detail[2], name, strnlen(name, NAME));
}

/* " 11:   1234   0   GICv3  27 Level     arch_timer", "IPI0:   2   0   Rescheduling interrupts" */
static void note_line(uint32_t operation, char *line)
{
	char *colon = strchr(line, ':'), *rest, *name;
	unsigned int number;
	uint64_t count;

	if (!colon)
		return;
	count = counts(colon + 1, &rest);
	if (!count)
		return;
	rest[strcspn(rest, "\n")] = 0;
	if (sscanf(line, " IPI%u:", &number) == 1) {
		note(operation, FROM_IPI + number, count, rest + strspn(rest, " "));
	} else if (sscanf(rest, " GICv%*u %u", &number) == 1 ||
		   sscanf(rest, " GIC-%*u %u", &number) == 1) {
		name = strrchr(rest, ' ');
		note(operation, number, count, name + 1);
	}
}

void note_proc_interrupts(uint32_t operation)
{
	FILE *file = fopen("/proc/interrupts", "r");
	char line[LINE];

	if (!file)
		end(STATE_FAILED, "/proc/interrupts: %s", strerror(errno));
	while (fgets(line, sizeof(line), file))
		note_line(operation, line);
	fclose(file);
}
