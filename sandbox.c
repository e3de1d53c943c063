#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "resolve.h"

/* What the kernel's headers say, which musl does not have and which may be older than the kernel. */
enum {
	LANDLOCK_CREATE = 444,
	LANDLOCK_ADD = 445,
	LANDLOCK_RESTRICT = 446, /* one number on all architectures */
	LANDLOCK_VERSION = 1,
	LANDLOCK_PATH = 1,
	LANDLOCK_PORT = 2,
	READ_FILE = 1 << 2,
	READ_DIRECTORY = 1 << 3,
	CONNECT_TCP = 1 << 1,
	DNS_PORT = 53,
	SECCOMP_FILTER = 2,
	CALLS = 512 /* no architecture has as many */
};

#define RET_KILL  0x80000000u
#define RET_TRAP  0x00030000u
#define RET_ALLOW 0x7fff0000u

#if defined(__x86_64__)
#define AUDIT_ARCH      0xc000003eu
#define RESULT(context) (context)->uc_mcontext.gregs[REG_RAX]
#elif defined(__aarch64__)
#define AUDIT_ARCH      0xc00000b7u
#define RESULT(context) (context)->uc_mcontext.regs[0]
#elif defined(__arm__)
#define AUDIT_ARCH      0x40000028u
#define RESULT(context) (context)->uc_mcontext.arm_r0
#endif

/* --- the user --- */

/* The kernel's calls themselves: those of musl take along what is needed for threads, 2 kB. */
#ifdef SYS_setresuid32
enum { SET_GROUPS = SYS_setgroups32, SET_GID = SYS_setresgid32, SET_UID = SYS_setresuid32 };
#else
enum { SET_GROUPS = SYS_setgroups, SET_GID = SYS_setresgid, SET_UID = SYS_setresuid };
#endif

static bool leave_root(const struct config *c, struct buf *said)
{
	bool good = true;
	if (geteuid() == 0)
		good = syscall(SET_GROUPS, 0, NULL) == 0 && syscall(SET_GID, c->gid, c->gid, c->gid) == 0 &&
		       syscall(SET_UID, c->uid, c->uid, c->uid) == 0;
	syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0,
	        0); /* another user may have changed it back, see proc(5) */
	buf_put_text(said, "%s %u", good ? "user" : "this system does not let it become another user; user",
	        geteuid());
	return good;
}

/* --- files and ports: Landlock --- */

static void allow_fd(int rules, int fd, uint64_t access)
{
	struct {
		uint64_t access;
		int32_t fd;
	} __attribute__((packed)) rule = {access, fd};
	syscall(LANDLOCK_ADD, rules, LANDLOCK_PATH, &rule, 0);
}

/* Whatever lies beside the file, so that it may be replaced (by a directory, too, to be told so); but not the
 * whole system. */
static void allow_beside(int rules, char *path, size_t n)
{
	while (n > 0 && path[n - 1] != '/')
		n--;
	path[n] = 0;
	int fd = n == 1 ? -1 : open(n == 0 ? "." : path, O_PATH | O_CLOEXEC);
	allow_fd(rules, fd, READ_FILE | READ_DIRECTORY);
	close(fd);
}

/* Reading a file: under its name and, when that is a link, where it lies. */
static void allow_file(int rules, const char *name)
{
	static unsigned char mem[40];
	static char path[CONFIG_PATH_BYTES];
	struct buf link = BUF(mem);
	size_t n = strlen(name);
	int fd = open(name, O_PATH | O_CLOEXEC);
	if (n < sizeof path) {
		memcpy(path, name, n);
		allow_beside(rules, path, n);
	}
	if (fd < 0)
		return;
	allow_fd(rules, fd, READ_FILE);
	buf_put_text(&link, "/proc/self/fd/%u", (unsigned)fd);
	ssize_t got = readlink(buf_cstr(&link), path, sizeof path - 1);
	if (got > 0)
		allow_beside(rules, path, (size_t)got);
	close(fd);
}

static void allow_port(int rules, uint16_t port)
{
	uint64_t rule[2] = {CONNECT_TCP, port};
	syscall(LANDLOCK_ADD, rules, LANDLOCK_PORT, rule, 0);
}

/* What is not allowed is refused: files, connections, and signals and local sockets of others. What a kernel
 * knows depends on its version of Landlock. */
static bool restrict_files(const struct config *c, struct buf *said)
{
	long version = syscall(LANDLOCK_CREATE, NULL, 0, LANDLOCK_VERSION);
	uint64_t files = version < 2 ? 0x1fff : version == 2 ? 0x3fff : version < 5 ? 0x7fff : 0xffff;
	uint64_t handled[3] = {files, version < 4 ? 0 : 3, version < 6 ? 0 : 3};
	/* Without Landlock, rules is -1, to which nothing can be added. */
	int rules = (int)syscall(LANDLOCK_CREATE, handled, sizeof handled, 0);
	allow_file(rules, resolve_hosts);
	allow_file(rules, resolve_conf);
	if (c->root_ca_path != NULL)
		allow_file(rules, c->root_ca_path);
	allow_port(rules, c->bridge.broker_port);
	allow_port(rules, c->bridge.api_port);
	allow_port(rules, DNS_PORT);
	bool good = syscall(LANDLOCK_RESTRICT, rules, 0) == 0;
	close(rules);
	buf_put_str(said, !good         ? "; no Landlock on this system"
	                  : version < 4 ? "; files"
	                                : "; files and ports");
	return good;
}

/* --- system calls: seccomp --- */

static volatile unsigned char refused[CALLS]; /* 1: to be told; 2: has been told */
static volatile bool some_refused;

#ifdef AUDIT_ARCH

/* What the loop calls, and what ends or returns from a signal. Neither mmap nor mprotect: memory stays what
 * it is (madvise can but empty it). */
static const uint16_t calls[] = {SYS_read, SYS_write, SYS_close, SYS_pselect6, SYS_connect, SYS_sendto,
        SYS_recvfrom, SYS_getsockopt, SYS_setsockopt, SYS_accept, SYS_shutdown, SYS_pread64, SYS_getrandom,
        SYS_madvise, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_restart_syscall, SYS_exit, SYS_exit_group,
#ifdef SYS_sigreturn
        SYS_sigreturn,
#endif
#ifdef SYS_clock_gettime
        SYS_clock_gettime,
#endif
#ifdef SYS_clock_gettime32
        SYS_clock_gettime32,
#endif
#ifdef SYS_clock_gettime64
        SYS_clock_gettime64, SYS_pselect6_time64
#endif
};

struct instruction {
	uint16_t code;
	uint8_t yes, no; /* instructions to skip */
	uint32_t k;
};

enum { LOAD = 0x20, EQUAL = 0x15, ANY_OF = 0x45, RETURN = 0x06 };
enum { NUMBER_AT = 0, ARCH_AT = 4, ARGUMENTS_AT = 16, ARGUMENT_BYTES = 8 };

/* The filter: this, then what allows calls by their numbers, and the rest, behind which stand the names. */
static const struct instruction head[] = {
        {LOAD, 0, 0, ARCH_AT},
        {EQUAL, 1, 0, AUDIT_ARCH},
        {RETURN, 0, 0, RET_KILL},
        {LOAD, 0, 0, NUMBER_AT},
};
static const struct instruction rest[] = {
        {EQUAL, 0, 5, SYS_socket},
        {LOAD, 0, 0, ARGUMENTS_AT},
        {EQUAL, 1, 0, AF_INET},
        {EQUAL, 0, 1, AF_INET6},
        {RETURN, 0, 0, RET_ALLOW},
        {RETURN, 0, 0, RET_TRAP},
        {EQUAL, 1, 0, SYS_openat},
        {RETURN, 0, 0, RET_TRAP},
        {LOAD, 0, 0, ARGUMENTS_AT + 2 * ARGUMENT_BYTES},
        {ANY_OF, 0, 1, O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND},
        {RETURN, 0, 0, RET_TRAP},
};

struct program {
	uint16_t n;
	struct instruction *code;
};

static void put(struct program *p, const struct instruction *code, size_t n)
{
	memcpy(p->code + p->n, code, n * sizeof *code);
	p->n = (uint16_t)(p->n + n);
}

/* Allows openat for this very string: it lies where nobody can write, so that the file can't be another one,
 * whichever file has the name. */
static void put_name(struct program *p, const char *name)
{
	uint64_t at = (uintptr_t)name;
	const struct instruction code[] = {
	        {LOAD, 0, 0, ARGUMENTS_AT + ARGUMENT_BYTES},
	        {EQUAL, 0, 3, (uint32_t)at},
	        {LOAD, 0, 0, ARGUMENTS_AT + ARGUMENT_BYTES + 4},
	        {EQUAL, 0, 1, (uint32_t)(at >> 32)},
	        {RETURN, 0, 0, RET_ALLOW},
	};
	put(p, code, sizeof code / sizeof code[0]);
}

static void put_program(struct program *p, const struct config *c)
{
	put(p, head, sizeof head / sizeof head[0]);
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		const struct instruction allow[] = {{EQUAL, 0, 1, calls[i]}, {RETURN, 0, 0, RET_ALLOW}};
		put(p, allow, 2);
	}
	put(p, rest, sizeof rest / sizeof rest[0]);
	put_name(p, resolve_hosts);
	put_name(p, resolve_conf);
	if (c->root_ca_path != NULL)
		put_name(p, c->root_ca_path);
	put(p, &rest[5], 1); /* whatever else there is */
}

/* A filter that answers with an error tells nobody; one that traps lets us note the call and answer. */
static void on_refused(int number, siginfo_t *info, void *context)
{
	ucontext_t *on = context;
	size_t call = (size_t)info->si_syscall;
	(void)number;
	if (call < CALLS && refused[call] == 0) {
		refused[call] = 1;
		some_refused = true;
	}
	RESULT(on) = (__typeof__(RESULT(on)))-EPERM;
}

static bool restrict_calls(const struct config *c, struct buf *said)
{
	struct instruction code[31 + 2 * sizeof calls / sizeof calls[0]]; /* what put_program puts */
	struct program p = {0, code};
	struct sigaction trap = {.sa_sigaction = on_refused, .sa_flags = SA_SIGINFO};
	put_program(&p, c);
	sigaction(SIGSYS, &trap, NULL);
	bool good = syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_FILTER, &p, 0, 0) == 0;
	buf_put_str(said, good ? "; system calls" : "; no seccomp on this system");
	return good;
}

#else

static bool restrict_calls(const struct config *c, struct buf *said)
{
	(void)c;
	buf_put_str(said, "; system calls are not filtered on this architecture");
	return false;
}

#endif

/* --- all of it --- */

#ifdef IAMCAT_TEST_HOOK
#include <stdlib.h>
void hook_try(const struct config *c); /* test/hook.c: tries what is refused from here on */
#endif

/* The name of the file that is read again, on a page that can't be written. */
static void protect_name(struct config *c)
{
	size_t n = sizeof c->root_ca_file;
	if (c->root_ca_file[0] == 0)
		return;
	char *page = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return;
	memcpy(page, c->root_ca_file, n);
	if (mprotect(page, n, PROT_READ) == 0)
		c->root_ca_path = page;
}

bool sandbox_enter(struct config *c, struct buf *said)
{
	buf_put_str(said, "sandbox: ");
	protect_name(c);
	bool good = leave_root(c, said);
	if (syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) != 0)
		buf_put_str(said, "; new privileges can't be ruled out");
	good &= restrict_files(c, said);
#ifdef IAMCAT_TEST_HOOK
	bool files_alone = getenv("HOOK_FILES_ALONE") != NULL;
	good &= files_alone || restrict_calls(c, said);
	hook_try(c);
#else
	good &= restrict_calls(c, said);
#endif
	return good;
}

int sandbox_refused(void)
{
	for (int call = 0; some_refused && call < CALLS; call++) {
		if (refused[call] == 1) {
			refused[call] = 2;
			return call;
		}
	}
	some_refused = false;
	return -1;
}
