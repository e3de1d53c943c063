/* For the tests alone (-DIAMCAT_TEST_HOOK): once inside the sandbox it tries what the program never does, and
 * writes a line for each: its name and how it went. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "sandbox.h"

#ifndef SYS_mmap
#define SYS_mmap SYS_mmap2
#endif

static void tell(const char *name, long result)
{
	char line[128];
	const char *how = result >= 0       ? "done"
	                  : errno == EPERM  ? "EPERM"
	                  : errno == EACCES ? "EACCES"
	                                    : strerror(errno);
	int n = snprintf(line, sizeof line, "hook %s: %s\n", name, how);
	if (write(STDERR_FILENO, line, (size_t)n) != n)
		_exit(9);
}

#define TRY(name, ...) tell(name, syscall(__VA_ARGS__))

static void try_files(const struct config *c)
{
	char copied[64];
	/* The right names at another place than the program's own: whoever can write there could change them.
	 */
	strcpy(copied, "/etc/resolv.conf");
	TRY("open-copied-name", SYS_openat, AT_FDCWD, copied, O_RDONLY);
	TRY("open-passwd", SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY);
	TRY("open-environ", SYS_openat, AT_FDCWD, "/proc/self/environ", O_RDONLY);
	TRY("open-directory", SYS_openat, AT_FDCWD, ".", O_RDONLY | O_DIRECTORY);
	TRY("open-path", SYS_openat, AT_FDCWD, "/usr", O_PATH);
	TRY("open-write", SYS_openat, AT_FDCWD, getenv("HOOK_FILE"), O_WRONLY);
	TRY("create", SYS_openat, AT_FDCWD, "made", O_WRONLY | O_CREAT, 0600);
	TRY("mkdir", SYS_mkdirat, AT_FDCWD, "made", 0700);
	TRY("unlink", SYS_unlinkat, AT_FDCWD, getenv("HOOK_FILE"), 0);
	TRY("rename", SYS_renameat2, AT_FDCWD, getenv("HOOK_FILE"), AT_FDCWD, "made", 0);
	TRY("link", SYS_linkat, AT_FDCWD, getenv("HOOK_FILE"), AT_FDCWD, "made", 0);
	TRY("symlink", SYS_symlinkat, "/etc", AT_FDCWD, "made");
	TRY("truncate", SYS_truncate, getenv("HOOK_FILE"), 0);
	TRY("chmod", SYS_fchmodat, AT_FDCWD, getenv("HOOK_FILE"), 0777);
	TRY("write-own-name", SYS_openat, AT_FDCWD, c->root_ca_path, O_RDWR);
	TRY("mount", SYS_mount, "/", "/", NULL, 4096, NULL);
	TRY("chroot", SYS_chroot, "/");
}

static void try_processes(void)
{
	static char *const none[] = {NULL};
	TRY("execve", SYS_execve, "/bin/true", none, none);
	TRY("clone", SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	TRY("ptrace", SYS_ptrace, 0, 0, 0, 0);
	TRY("read-process", SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0);
	TRY("kill", SYS_kill, getenv("HOOK_PID") ? atoi(getenv("HOOK_PID")) : 1, 0);
	TRY("setuid", SYS_setuid, 0);
	TRY("prctl", SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
	TRY("unshare", SYS_unshare, 0x10000000);
	TRY("mmap-code", SYS_mmap, NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TRY("mprotect", SYS_mprotect, NULL, 4096, PROT_READ | PROT_WRITE);
	TRY("sigaction", SYS_rt_sigaction, SIGSYS, NULL, NULL, 8);
	TRY("keyctl", SYS_keyctl, 0, 0, 0, 0, 0);
	TRY("bpf", SYS_bpf, 0, NULL, 0);
	TRY("io_uring", 425 /* io_uring_setup */, 1, NULL);
}

static int in_port(const char *name)
{
	return getenv(name) ? atoi(getenv(name)) : 0;
}

static void try_ports(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int tcp = socket(AF_INET, SOCK_STREAM, 0), fresh = socket(AF_INET, SOCK_STREAM, 0);
	tell("socket-local", socket(AF_UNIX, SOCK_STREAM, 0));
	tell("socket-netlink", socket(AF_NETLINK, SOCK_RAW, 0));
	tell("socket-packet", socket(AF_PACKET, SOCK_RAW, 0));
	to.sin_port = htons((uint16_t)in_port("HOOK_PORT"));
	tell("connect", connect(tcp, (struct sockaddr *)&to, sizeof to));
	to.sin_port = htons((uint16_t)in_port("HOOK_FREE_PORT"));
	tell("listen", bind(fresh, (struct sockaddr *)&to, sizeof to));
	close(tcp);
	close(fresh);
}

void hook_try(const struct config *c);
void hook_try(const struct config *c)
{
	try_files(c);
	if (getenv("HOOK_FILES_ALONE") == NULL) /* they would succeed */
		try_processes();
	try_ports();
	tell("end", 0);
}
