/*
 * LD_PRELOAD: names every point at which a program changes what others can see (files, directories,
 * sockets, programs that it starts, its own end), and kills it, or fails it, at a chosen one.
 *
 * INJECT_LOG      file that gets "PROGRAM OPERATION PATH", a line for each point
 * INJECT_POINT    such a line: where it happens
 * INJECT_NTH      which of these, from 1, over all processes
 * INJECT_ERROR    errno, from there on for all that takes room; without it: SIGKILL
 * INJECT_COUNTER  file of 8 zero bytes, shared by all processes
 * INJECT_CLOCK    seconds by which the wall clock jumps forth and back, three times a second
 *
 * What follows the first write to a file that was opened is no point of its own: how a console's
 * output is cut into writes differs from run to run. Names that mkdtemp(3) made are written as "*".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE (PATH_MAX + 64)
#define SEEN 4096
#define RANDOM_CHARACTERS 8	/* Python Lib/tempfile.py, _RandomNameSequence */

static const char *log_path, *point;
static long nth, error, clock_jump;
static _Atomic long *counter;
static uint64_t seen[SEEN];	/* (operation, path) since the file was opened */

__attribute__((constructor)) static void begin(void)
{
	const char *text;
	int file;

	log_path = getenv("INJECT_LOG");
	point = getenv("INJECT_POINT");
	if ((text = getenv("INJECT_NTH")))
		nth = atol(text);
	if ((text = getenv("INJECT_ERROR")))
		error = atol(text);
	if ((text = getenv("INJECT_CLOCK")))
		clock_jump = atol(text);
	if (!point || !(text = getenv("INJECT_COUNTER")))
		return;
	file = syscall(SYS_openat, AT_FDCWD, text, O_RDWR | O_CLOEXEC);
	if (file < 0)
		return;
	counter = mmap(NULL, sizeof(*counter), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (counter == MAP_FAILED)
		counter = NULL;
	syscall(SYS_close, file);
}

static bool is_random(const char *name, size_t length)
{
	size_t i;

	if (length < RANDOM_CHARACTERS)
		return false;
	for (i = length - RANDOM_CHARACTERS; i < length; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789_", name[i]))
			return false;
	length -= RANDOM_CHARACTERS;
	return !length || name[length - 1] == '-' || (length == 3 && !strncmp(name, "tmp", 3));
}

static void append_path(char *line, const char *path)
{
	char *end = line + strlen(line);

	while (*path && end - line < LINE - 2) {
		size_t length = strcspn(path, "/");
		size_t kept = is_random(path, length) ? length - RANDOM_CHARACTERS : length;

		if ((size_t)(end - line) + kept + 4 > LINE)
			break;
		end = mempcpy(end, path, kept);
		if (kept != length)
			*end++ = '*';
		path += length;
		if (*path)
			*end++ = *path++;
	}
	*end = '\0';
}

static uint64_t hash(const char *text)
{
	uint64_t value = 14695981039346656037u;	/* FNV-1a */

	while (*text)
		value = (value ^ (unsigned char)*text++) * 1099511628211u;
	return value | 1;
}

/* Whether this came before; ``forget`` makes it new again. */
static bool repeated(const char *line, bool forget)
{
	uint64_t key = hash(line);
	size_t i = key % SEEN, tries;

	for (tries = 0; tries < SEEN && seen[i]; tries++, i = (i + 1) % SEEN) {
		if (seen[i] != key)
			continue;
		if (forget)
			seen[i] = 2;	/* not 0: others may lie behind it */
		return true;
	}
	if (!forget && tries < SEEN)
		seen[i] = key;
	return false;
}

/* The error that a point is to fail with; 0: none. */
static int at(const char *operation, const char *path, bool once, bool takes_room)
{
	char line[LINE];
	long count;
	int file;

	if ((!log_path && !counter) || !path || !strncmp(path, "/dev/", 5) ||
	    !strncmp(path, "/proc/", 6))
		return 0;
	if (log_path && !strcmp(path, log_path))
		return 0;
	snprintf(line, sizeof(line), "%s %s ", program_invocation_short_name, operation);
	append_path(line, path);
	if (counter && error && takes_room && atomic_load(counter) >= nth)
		return error;
	if (once && repeated(line, false))
		return 0;
	if (log_path) {
		size_t length = strlen(line);

		line[length] = '\n';
		file = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CLOEXEC);
		syscall(SYS_write, file, line, length + 1);
		syscall(SYS_close, file);
		line[length] = '\0';
	}
	if (!counter || strcmp(line, point))
		return 0;
	count = atomic_fetch_add(counter, 1) + 1;
	if (count != nth)
		return 0;
	if (error)
		return error;
	syscall(SYS_kill, getpid(), SIGKILL);
	return 0;
}

static int at_file(const char *operation, int file, bool takes_room)
{
	int saved = errno, result = 0;
	char path[PATH_MAX], name[32];
	struct stat status;
	ssize_t length;

	if (fstat(file, &status) || !S_ISREG(status.st_mode))
		return 0;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", file);
	length = syscall(SYS_readlink, name, path, sizeof(path) - 1);
	if (length > 0) {
		path[length] = '\0';
		result = at(operation, path, true, takes_room);
	}
	errno = saved;
	return result;
}

static void forget(const char *path)
{
	static const char *const operations[] = { "write", "fsync", "ftruncate", "fallocate" };
	char line[LINE];
	size_t i;

	for (i = 0; i < sizeof(operations) / sizeof(*operations); i++) {
		snprintf(line, sizeof(line), "%s %s ", program_invocation_short_name, operations[i]);
		append_path(line, path);
		repeated(line, true);
	}
}

static int at_open(const char *path, int flags)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;

	if (!writes || path[0] != '/')
		return 0;
	forget(path);
	return at("open", path, false, flags & O_CREAT && access(path, F_OK));
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))
#define FAIL_IF(call)			\
	do {				\
		int failed = (call);	\
		if (failed) {		\
			errno = failed;	\
			return -1;	\
		}			\
	} while (0)

#define MODE(flags, mode)				\
	mode_t mode = 0;				\
	if ((flags) & (O_CREAT | __O_TMPFILE)) {	\
		va_list rest;				\
		va_start(rest, flags);			\
		mode = va_arg(rest, mode_t);		\
		va_end(rest);				\
	}

int open(const char *path, int flags, ...)
{
	MODE(flags, mode);
	FAIL_IF(at_open(path, flags));
	return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	MODE(flags, mode);
	FAIL_IF(at_open(path, flags));
	return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
	MODE(flags, mode);
	FAIL_IF(at_open(path, flags));
	return syscall(SYS_openat, directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
	MODE(flags, mode);
	FAIL_IF(at_open(path, flags));
	return syscall(SYS_openat, directory, path, flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
	FAIL_IF(at("mkdir", path, false, access(path, F_OK)));
	return REAL(mkdir)(path, mode);
}

int rename(const char *from, const char *to)
{
	FAIL_IF(at("rename", to, false, false));
	return REAL(rename)(from, to);
}

int unlink(const char *path)
{
	FAIL_IF(at("unlink", path, false, false));
	return REAL(unlink)(path);
}

int rmdir(const char *path)
{
	FAIL_IF(at("rmdir", path, false, false));
	return REAL(rmdir)(path);
}

ssize_t write(int file, const void *bytes, size_t count)
{
	FAIL_IF(at_file("write", file, true));
	return REAL(write)(file, bytes, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset)
{
	FAIL_IF(at_file("write", file, true));
	return REAL(pwrite)(file, bytes, count, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset)
{
	FAIL_IF(at_file("write", file, true));
	return REAL(pwrite64)(file, bytes, count, offset);
}

ssize_t writev(int file, const struct iovec *vectors, int count)
{
	FAIL_IF(at_file("write", file, true));
	return REAL(writev)(file, vectors, count);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
	FAIL_IF(at_file("write", out, true));
	return REAL(sendfile64)(out, in, offset, count);
}

int fsync(int file)
{
	FAIL_IF(at_file("fsync", file, true));
	return REAL(fsync)(file);
}

int fdatasync(int file)
{
	FAIL_IF(at_file("fsync", file, true));
	return REAL(fdatasync)(file);
}

int ftruncate(int file, off_t length)
{
	FAIL_IF(at_file("ftruncate", file, false));
	return REAL(ftruncate)(file, length);
}

int ftruncate64(int file, off64_t length)
{
	FAIL_IF(at_file("ftruncate", file, false));
	return REAL(ftruncate64)(file, length);
}

int posix_fallocate(int file, off_t offset, off_t length)
{
	int failed = at_file("fallocate", file, true);

	return failed ? failed : REAL(posix_fallocate)(file, offset, length);
}

int posix_fallocate64(int file, off64_t offset, off64_t length)
{
	int failed = at_file("fallocate", file, true);

	return failed ? failed : REAL(posix_fallocate64)(file, offset, length);
}

int bind(int file, const struct sockaddr *address, socklen_t length)
{
	const struct sockaddr_un *local = (const void *)address;

	if (address->sa_family == AF_UNIX && local->sun_path[0])
		FAIL_IF(at("bind", local->sun_path, false, true));
	return REAL(bind)(file, address, length);
}

int execve(const char *path, char *const arguments[], char *const environment[])
{
	/* Most are tries along PATH. */
	if (!access(path, X_OK))
		FAIL_IF(at("exec", path, false, false));
	return REAL(execve)(path, arguments, environment);
}

int execv(const char *path, char *const arguments[])
{
	return execve(path, arguments, environ);
}

/* Forth, right, back, right, … */
static long off(void)
{
	static const int turns[] = { 1, 0, -1, 0 };
	struct timespec now;

	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
	return clock_jump * turns[(now.tv_sec * 3 + now.tv_nsec / 333333334) % 4];
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = REAL(clock_gettime)(clock, now);

	if (!result && clock_jump && clock == CLOCK_REALTIME)
		now->tv_sec += off();
	return result;
}

int gettimeofday(struct timeval *now, void *zone)
{
	int result = REAL(gettimeofday)(now, zone);

	if (!result && clock_jump)
		now->tv_sec += off();
	return result;
}

time_t time(time_t *now)
{
	struct timespec real;

	clock_gettime(CLOCK_REALTIME, &real);
	if (now)
		*now = real.tv_sec;
	return real.tv_sec;
}

__attribute__((destructor)) static void end(void)
{
	at("exit", "", false, false);
}
