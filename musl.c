/* For the static build alone: Debian's libbearssl.a was compiled for glibc with bounds checks
 * (-D_FORTIFY_SOURCE), and musl has none of the functions that they call. And what is shorter here than in
 * musl, which has to serve every program: those with threads, on kernels of long ago, in files of any size.
 */
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__memcpy_chk(void *to, const void *from, size_t n, size_t room);
void *__memmove_chk(void *to, const void *from, size_t n, size_t room);
void *__memset_chk(void *to, int c, size_t n, size_t room);

void *__memcpy_chk(void *to, const void *from, size_t n, size_t room)
{
	if (n > room)
		__builtin_trap();
	return memcpy(to, from, n);
}

void *__memmove_chk(void *to, const void *from, size_t n, size_t room)
{
	if (n > room)
		__builtin_trap();
	return memmove(to, from, n);
}

void *__memset_chk(void *to, int c, size_t n, size_t room)
{
	if (n > room)
		__builtin_trap();
	return memset(to, c, n);
}

void *memchr(const void *p, int c, size_t n)
{
	const unsigned char *at = p;
	while (n > 0 && *at != (unsigned char)c) {
		at++;
		n--;
	}
	return n > 0 ? (void *)at : NULL;
}

__attribute__((optimize("no-tree-loop-distribute-patterns"))) /* it is no call of itself */
size_t
strlen(const char *s)
{
	size_t n = 0;
	while (s[n] != 0)
		n++;
	return n;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;
	while (n > 0 && *x == *y) {
		x++;
		y++;
		n--;
	}
	return n > 0 ? *x - *y : 0;
}

int strcmp(const char *a, const char *b)
{
	while (*a != 0 && *a == *b) {
		a++;
		b++;
	}
	return (unsigned char)*a - (unsigned char)*b;
}

int socket(int family, int type, int protocol)
{
	return (int)syscall(SYS_socket, family, type, protocol);
}

/* For what is there already: nothing is created. */
int open(const char *path, int flags, ...)
{
	return (int)syscall(SYS_openat, (long)AT_FDCWD, path, flags | O_LARGEFILE);
}

int connect(int fd, const struct sockaddr *to, socklen_t n)
{
	return (int)syscall(SYS_connect, fd, to, n);
}

int accept(int fd, struct sockaddr *restrict from, socklen_t *restrict n)
{
	return (int)syscall(SYS_accept, fd, from, n);
}

/* No time is asked for, of which there are two kinds on 32 bits. */
int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict n)
{
	return (int)syscall(SYS_getsockopt, fd, level, name, value, n);
}

int bind(int fd, const struct sockaddr *at, socklen_t n)
{
	return (int)syscall(SYS_bind, fd, at, n);
}

int listen(int fd, int backlog)
{
	return (int)syscall(SYS_listen, fd, backlog);
}

int shutdown(int fd, int how)
{
	return (int)syscall(SYS_shutdown, fd, how);
}

ssize_t send(int fd, const void *p, size_t n, int flags)
{
	return syscall(SYS_sendto, fd, p, n, flags, NULL, 0);
}

ssize_t recv(int fd, void *p, size_t n, int flags)
{
	return syscall(SYS_recvfrom, fd, p, n, flags, NULL, NULL);
}

ssize_t read(int fd, void *p, size_t n)
{
	return syscall(SYS_read, fd, p, n);
}

ssize_t write(int fd, const void *p, size_t n)
{
	return syscall(SYS_write, fd, p, n);
}

int close(int fd)
{
	return (int)syscall(SYS_close, fd);
}

ssize_t readlink(const char *restrict path, char *restrict to, size_t n)
{
	return syscall(SYS_readlinkat, (long)AT_FDCWD, path, to, n);
}

int isatty(int fd)
{
	struct winsize size;
	return syscall(SYS_ioctl, fd, TIOCGWINSZ, &size) == 0;
}

/* For memory that is no file's. */
#ifdef SYS_mmap2
enum { MMAP = SYS_mmap2 };
#else
enum { MMAP = SYS_mmap };
#endif
void *mmap(void *at, size_t n, int access, int flags, int fd, off_t from)
{
	(void)from;
	return (void *)syscall(MMAP, at, n, access, flags, fd, 0L);
}

ssize_t getrandom(void *p, size_t n, unsigned flags)
{
	return syscall(SYS_getrandom, p, n, flags);
}

int madvise(void *at, size_t n, int advice)
{
	return (int)syscall(SYS_madvise, at, n, advice);
}

int mprotect(void *at, size_t n, int access)
{
	return (int)syscall(SYS_mprotect, at, n, access);
}

int sigaddset(sigset_t *set, int number)
{
	enum { BITS = 8 * sizeof set->__bits[0] };
	set->__bits[(number - 1) / BITS] |= 1ul << (number - 1) % BITS;
	return 0;
}

int sigprocmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
	return (int)syscall(SYS_rt_sigprocmask, how, set, old, (size_t)(_NSIG / 8));
}

/* What was set before is not told, and a handler holds back no other signal. */
void __restore_rt(void);
int sigaction(int number, const struct sigaction *restrict new, struct sigaction *restrict old)
{
	enum { WITH_RESTORER = 0x04000000 };
	struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		unsigned mask[_NSIG / 32];
	} action = {new->sa_handler, (unsigned long)new->sa_flags | WITH_RESTORER | SA_SIGINFO, __restore_rt,
	        {0}};
	(void)old;
	return (int)syscall(SYS_rt_sigaction, number, &action, NULL, sizeof action.mask);
}
