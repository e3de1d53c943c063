/* What the unit tests and the simulated world take from a POSIX system, on the emulated board. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <sys/mman.h>

/* --- formats --- */

#undef vsnprintf
int target_vsnprintf(char *to, size_t n, const char *format, va_list list)
{
	char plain[1024];
	size_t at = 0;
	for (const char *c = format; *c != 0 && at + 1 < sizeof plain; c++)
		if (c == format || c[-1] != '%' || *c != 'z') /* a size_t is an unsigned */
			plain[at++] = *c;
	plain[at] = 0;
	return vsnprintf(to, n, plain, list);
}

int target_snprintf(char *to, size_t n, const char *format, ...)
{
	va_list list;
	va_start(list, format);
	int written = target_vsnprintf(to, n, format, list);
	va_end(list);
	return written;
}

int target_printf(const char *format, ...)
{
	static char text[4096];
	va_list list;
	va_start(list, format);
	int written = target_vsnprintf(text, sizeof text, format, list);
	va_end(list);
	fputs(text, stdout);
	return written;
}

/* --- guard pages --- */

/* Armv7-M Architecture Reference Manual, B3.5.4 to B3.5.9 */
static volatile uint32_t *const mpu = (volatile uint32_t *)0xe000ed90;
enum { MPU_TYPE, MPU_CONTROL, MPU_NUMBER, MPU_BASE, MPU_ATTRIBUTES };
enum { ENABLED = 1, ELSE_AS_USUAL = 4, REGION_OF_32 = 4 << 1, NO_ACCESS = 0 << 24 };
enum { PAGE = 32, REGIONS = 8 };
static void *region[REGIONS]; /* the page that each one guards */

long sysconf(int name)
{
	return name == _SC_PAGESIZE ? PAGE : -1;
}

static void set_region(uint32_t i, void *page)
{
	region[i] = page;
	mpu[MPU_NUMBER] = i;
	mpu[MPU_BASE] = (uint32_t)(uintptr_t)page;
	mpu[MPU_ATTRIBUTES] = page != NULL ? NO_ACCESS | REGION_OF_32 | ENABLED : 0;
	mpu[MPU_CONTROL] = ELSE_AS_USUAL | ENABLED;
	__asm__ volatile("dsb\n\tisb" : : : "memory");
}

static int64_t find(const void *page)
{
	for (uint32_t i = 0; i < REGIONS; i++)
		if (region[i] == page)
			return i;
	return -1;
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, long offset)
{
	(void)at, (void)protection, (void)flags, (void)fd, (void)offset;
	unsigned char *whole = malloc(n + 2 * PAGE);
	if (whole == NULL)
		return MAP_FAILED;
	unsigned char *p = whole + PAGE + (-(uintptr_t)whole % PAGE);
	memcpy(p - sizeof whole, &whole, sizeof whole); /* for munmap */
	memset(p, 0, n);
	return p;
}

int mprotect(void *at, size_t n, int protection)
{
	int64_t i = find(NULL);
	if (i < 0 || n != PAGE || protection != PROT_NONE || (mpu[MPU_TYPE] >> 8 & 0xff) != REGIONS)
		return -1;
	set_region((uint32_t)i, at);
	return 0;
}

int munmap(void *at, size_t n)
{
	unsigned char *p = at, *whole;
	int64_t i = find(p + n - PAGE);
	if (i >= 0)
		set_region((uint32_t)i, NULL);
	memcpy(&whole, p - sizeof whole, sizeof whole);
	free(whole);
	return 0;
}

/* --- addresses --- */

static const char *read_ip4(const char *s, unsigned char *ip)
{
	for (int i = 0; i < 4; i++) {
		unsigned v = 0, digits = 0;
		for (; *s >= '0' && *s <= '9' && digits < 4; s++, digits++) {
			if (digits > 0 && v == 0)
				return NULL;
			v = v * 10 + (unsigned)(*s - '0');
		}
		if (digits == 0 || v > 255 || (i < 3 && *s++ != '.'))
			return NULL;
		ip[i] = (unsigned char)v;
	}
	return *s == 0 ? s : NULL;
}

/* Up to 8 words, colons between them; *gap is where :: stood. Returns the bytes, -1 when it is none. */
static int read_words(const char *s, unsigned char *ip, int *gap)
{
	int n = 0;
	*gap = -1;
	if (s[0] == ':' && *++s != ':')
		return -1;
	while (*s != 0) {
		if (*s == ':') {
			if (*gap >= 0)
				return -1;
			*gap = n;
			s++;
			continue;
		}
		char *after;
		size_t digits = strspn(s, "0123456789abcdefABCDEF");
		if (s[digits] == '.')
			return n <= 12 && read_ip4(s, ip + n) != NULL ? n + 4 : -1;
		unsigned long v = strtoul(s, &after, 16);
		if (digits == 0 || digits > 4 || n == 16)
			return -1;
		ip[n++] = (unsigned char)(v >> 8);
		ip[n++] = (unsigned char)v;
		s = after;
		if (*s != 0 && (*s++ != ':' || *s == 0))
			return -1;
	}
	return n;
}

int inet_pton(int family, const char *text, void *to)
{
	unsigned char ip[20] = {0}, *out = to;
	int gap;
	if (family == AF_INET) {
		if (read_ip4(text, ip) == NULL)
			return 0;
		memcpy(to, ip, 4);
		return 1;
	}
	int n = read_words(text, ip, &gap);
	if (n < 0 || n > 16 || (gap < 0 ? n != 16 : n == 16))
		return 0;
	int behind = gap < 0 ? 0 : n - gap;
	memset(out, 0, 16);
	memcpy(out, ip, (size_t)(n - behind));
	memcpy(out + 16 - behind, ip + n - behind, (size_t)behind);
	return 1;
}

const char *inet_ntop(int family, const void *from, char *text, size_t cap)
{
	const unsigned char *ip = from;
	int at = -1, most = 1, n = 0;
	if (family == AF_INET) {
		snprintf(text, cap, "%u.%u.%u.%u", ip[0], ip[1], ip[2], ip[3]);
		return text;
	}
	for (int i = 0; i < 8; i++) { /* the longest run of zeros, of two words at least */
		int run = 0;
		while (i + run < 8 && ip[2 * (i + run)] == 0 && ip[2 * (i + run) + 1] == 0)
			run++;
		if (run > most) {
			most = run;
			at = i;
		}
	}
	bool ip4 = at == 0 && (most == 6 || (most == 5 && ip[10] == 0xff && ip[11] == 0xff));
	for (int i = 0; i < (ip4 ? 6 : 8); i++) {
		if (i == at) {
			n += snprintf(text + n, cap - (size_t)n, i + most == 8 ? "::" : ":");
			i += most - 1;
		} else {
			n += snprintf(text + n, cap - (size_t)n, "%s%x", i > 0 ? ":" : "",
			        (unsigned)(ip[2 * i] << 8 | ip[2 * i + 1]));
		}
	}
	if (ip4)
		snprintf(text + n, cap - (size_t)n, ":%u.%u.%u.%u", ip[12], ip[13], ip[14], ip[15]);
	return text;
}

/* test/world.c can share its work among processes: here there is one, and these are never called. */
int _fork(void);
int _wait(int *status);
int _execve(const char *path, char *const argv[], char *const envp[]);

int _fork(void)
{
	return -1;
}

int _wait(int *status)
{
	(void)status;
	return -1;
}

int _execve(const char *path, char *const argv[], char *const envp[])
{
	(void)path, (void)argv, (void)envp;
	return -1;
}
