// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What stands in for the QEMU in L1: its gdbstub, monitor and QMP on their ports,
 * before a machine whose every step is PC + 4. /trouble says what goes wrong, and
 * after how many steps.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GDBSTUB, MONITOR, QMP, PORTS };

#define ECHO_END	"\x1b[K"	/* QEMU's readline behind what is typed */
#define CURSOR_UP	"\x1b[A"
#define REGISTER_PC	32
#define REGISTER_CPSR	33

static int ports[PORTS];
static char trouble[32];
static long due, steps;
static uint64_t pc, pstate = 0x3c5;

static void say(int port, const char *text)
{
	size_t length = strlen(text);

	while (length) {
		ssize_t written = write(ports[port], text, length);

		if (written <= 0)
			exit(4);
		text += written;
		length -= written;
	}
}

static int is(const char *what)
{
	return !strcmp(trouble, what);
}

/* The same, when so many steps are done. */
static int now(const char *what)
{
	return is(what) && steps >= due;
}

static void hang(void)
{
	for (;;)
		pause();
}

/* Linux maps its own code read-only where /dev/mem writes to. */
static void break_kernel(void)
{
	unsigned long begin;
	char line[128];
	int memory = open("/dev/mem", O_RDWR);
	FILE *map = fopen("/proc/iomem", "r");

	while (map && fgets(line, sizeof(line), map))
		if (strstr(line, "Kernel code") && sscanf(line, " %lx", &begin) == 1)
			pwrite(memory, "oops", 4, begin);
	fprintf(stderr, "the kernel did not mind\n");
	exit(5);
}

static void spread_garbage(int port)
{
	int line;

	for (line = 0; line < 200; line++)
		say(port, "Lorem ipsum dolor sit amet, consectetur adipiscing elit.\r\n");
}

static void send_packet(const char *payload)
{
	unsigned char sum = now("checksum");
	char packet[4096];
	const char *byte;

	for (byte = payload; *byte; byte++)
		sum += *byte;
	snprintf(packet, sizeof(packet), "$%s#%02x", payload, sum);
	say(GDBSTUB, packet);
}

static void describe(const char *request)
{
	char text[4096];
	int at, number;

	if (!strstr(request, "core.xml")) {
		send_packet("l<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
			    "<target><architecture>aarch64</architecture>"
			    "<xi:include href=\"aarch64-core.xml\"/></target>");
		return;
	}
	at = sprintf(text, "l<?xml version=\"1.0\"?><!DOCTYPE feature SYSTEM \"gdb-target.dtd\">"
		     "<feature name=\"org.gnu.gdb.aarch64.core\">");
	for (number = 0; number < 31; number++)
		at += sprintf(text + at, "<reg name=\"x%d\" bitsize=\"64\"/>", number);
	sprintf(text + at, "<reg name=\"sp\" bitsize=\"64\"/><reg name=\"pc\" bitsize=\"64\"/>"
		"<reg name=\"cpsr\" bitsize=\"32\"/></feature>");
	send_packet(text);
}

static uint64_t from_hex(const char *digits, int bytes)
{
	uint64_t value = 0;
	unsigned int byte;
	int at;

	for (at = 0; at < bytes && sscanf(digits + 2 * at, "%2x", &byte) == 1; at++)
		value |= (uint64_t)byte << 8 * at;
	return value;
}

static int put_hex(char *digits, uint64_t value, int bytes)
{
	int at;

	for (at = 0; at < bytes; at++)
		sprintf(digits + 2 * at, "%02x", (unsigned int)(value >> 8 * at & 0xff));
	return 2 * bytes;
}

static void show_registers(void)
{
	char text[1024];
	int at = 0, number;

	for (number = 0; number < 32; number++)
		at += put_hex(text + at, 0, 8);
	at += put_hex(text + at, pc, 8);
	put_hex(text + at, pstate, 4);
	send_packet(text);
}

static void write_register(const char *request)
{
	char *value;
	long number = strtol(request + 1, &value, 16);

	if (number == REGISTER_PC)
		pc = from_hex(value + 1, 8);
	else if (number == REGISTER_CPSR)
		pstate = from_hex(value + 1, 4);
	send_packet("OK");
}

static void show_memory(const char *request)
{
	char text[2048] = "";
	char *size = strchr(request, ',');
	long left = size ? strtol(size + 1, NULL, 16) : 0;

	while (left-- > 0 && strlen(text) < sizeof(text) - 3)
		strcat(text, "00");
	send_packet(text);
}

static void step(void)
{
	if (now("deaf"))
		hang();
	if (now("oops"))
		break_kernel();
	if (now("garbage")) {
		spread_garbage(GDBSTUB);
		return;
	}
	if (now("cut") || now("shot")) {
		say(GDBSTUB, "$T05thr");
		if (is("shot"))
			raise(SIGSEGV);
		exit(3);
	}
	steps++;
	pc += 4;
	send_packet("T05thread:01;");
}

static void answer_request(const char *request)
{
	static const struct {
		const char *request, *answer;
	} fixed[] = {
		{ "qSupported", "PacketSize=1000;qXfer:features:read+;vContSupported+" },
		{ "vCont?", "vCont;c;C;s;S" },
		{ "?", "T05thread:01;" },
		{ "qfThreadInfo", "m01" },
		{ "qsThreadInfo", "l" },
		{ "qC", "QC01" },
		{ "qAttached", "1" },
		{ "H", "OK" },
		{ "T", "OK" },
		{ "D", "OK" },
	};
	size_t i;

	say(GDBSTUB, "+");
	if (!strncmp(request, "vCont;s", 7)) {
		step();
	} else if (!strncmp(request, "qXfer:features:read:", 20)) {
		describe(request);
	} else if (*request == 'g') {
		show_registers();
	} else if (*request == 'P') {
		write_register(request);
	} else if (*request == 'm') {
		show_memory(request);
	} else {
		for (i = 0; i < sizeof(fixed) / sizeof(*fixed); i++)
			if (!strncmp(request, fixed[i].request, strlen(fixed[i].request)))
				break;
		send_packet(i < sizeof(fixed) / sizeof(*fixed) ? fixed[i].answer : "");
	}
}

/* Takes packets off the front of what has come; the rest stays. */
static void serve_gdbstub(char *text)
{
	static char request[4096], last[4096];
	char *begin, *end;

	if (*text == '-')
		answer_request(last);
	while ((begin = strchr(text, '$')) && (end = strchr(begin, '#')) && end[1] && end[2]) {
		snprintf(request, sizeof(request), "%.*s", (int)(end - begin - 1), begin + 1);
		memmove(text, end + 3, strlen(end + 3) + 1);
		strcpy(last, request);
		answer_request(request);
	}
	if (!strchr(text, '$'))
		*text = '\0';
}

static void run_command(const char *command)
{
	char text[256];

	say(MONITOR, "\r\n");
	if (now("babble"))
		spread_garbage(MONITOR);
	if (!strcmp(command, "info status"))
		say(MONITOR, "VM status: paused (prelaunch)\r\n");
	if (!strncmp(command, "gdbserver", 9))
		say(MONITOR, "Waiting for gdb connection on device 'chardev:gdb'\r\n");
	if (!strcmp(command, "info registers")) {
		snprintf(text, sizeof(text), "CPU#0\r\n PC=%016llx X00=0\r\nPSTATE=%08llx ---- EL1h\r\n",
			 (unsigned long long)pc, (unsigned long long)pstate);
		say(MONITOR, now("babble") ? "\r\n" : text);
	}
	say(MONITOR, "(qemu) ");
}

/* A line may be typed long before its last key comes. */
static void serve_monitor(char *text)
{
	static char last[256];
	static int shown;
	const char *line;
	char *end;

	while (*text) {
		end = strchr(text, '\n');
		if (end)
			*end = '\0';
		line = strcmp(text, CURSOR_UP) ? text : last;
		if (!shown || !end) {
			say(MONITOR, line);
			say(MONITOR, ECHO_END);
		}
		shown = !end;
		if (!end)
			return;
		if (line != last)
			snprintf(last, sizeof(last), "%s", line);
		memmove(text, end + 1, strlen(end + 1) + 1);
		run_command(last);
	}
}

static void answer_qmp(const char *command)
{
	char text[256], id[64] = "";
	const char *found = strstr(command, "\"id\":\"");

	if (found)
		sscanf(found + 6, "%63[^\"]", id);
	snprintf(text, sizeof(text), "{\"return\": {\"enabled\": %s}, \"id\": \"%s\"}\r\n",
		 is("tcg") ? "false" : "true", id);
	say(QMP, text);
	if (strstr(command, "\"quit\""))
		exit(0);
}

/* Commands come without newlines, and one at a time. */
static void serve_qmp(char *text)
{
	const char *byte;
	int depth = 0;

	for (byte = text; *byte; byte++)
		depth += (*byte == '{') - (*byte == '}');
	if (depth)
		return;
	answer_qmp(text);
	*text = '\0';
}

static void read_trouble(void)
{
	FILE *file = fopen("/trouble", "r");

	if (!file || fscanf(file, "%31s %ld", trouble, &due) != 2)
		exit(6);
	fclose(file);
}

int main(void)
{
	static void (*const serve[])(char *) = { serve_gdbstub, serve_monitor, serve_qmp };
	static char text[PORTS][8192];
	struct pollfd ready[PORTS];
	char path[32];
	int port;

	read_trouble();
	for (port = 0; port < PORTS; port++) {
		snprintf(path, sizeof(path), "/dev/vport0p%d", port + 1);
		ports[port] = open(path, O_RDWR);
		if (ports[port] < 0)
			exit(7);
		ready[port] = (struct pollfd){ .fd = ports[port], .events = POLLIN };
	}
	if (is("mute"))
		hang();
	say(MONITOR, "QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ");
	say(QMP, "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
		 "\"package\": \"\"}, \"capabilities\": []}}\r\n");
	for (;;) {
		poll(ready, PORTS, -1);
		for (port = 0; port < PORTS; port++) {
			size_t used = strlen(text[port]);
			ssize_t length;

			if (!(ready[port].revents & (POLLIN | POLLHUP)))
				continue;
			length = read(ports[port], text[port] + used, sizeof(text[port]) - used - 1);
			if (length <= 0)
				hang();	/* as QEMU's chardev `pipe`, which reads no more */
			text[port][used + length] = '\0';
			serve[port](text[port]);
		}
	}
}
