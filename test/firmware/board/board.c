#include "board.h"

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], end[], stack_top[];

/* Arm, Semihosting for AArch32 and AArch64, §6 */
enum {
	SYS_OPEN = 1,
	SYS_CLOSE = 2,
	SYS_WRITE0 = 4,
	SYS_READ = 6,
	SYS_TIME = 0x11,
	SYS_GET_CMDLINE = 0x15,
	SYS_EXIT = 0x18
};
enum { STOPPED_BY_ERROR = 0x20023, STOPPED = 0x20026 };

/* The board's first timer counts 25 MHz down through 32 bits (Arm DDI 0479, §4.3). */
#define TIMER ((volatile uint32_t *)0x40000000)
enum { TIMER_CONTROL, TIMER_VALUE, TIMER_RELOAD, TICKS_PER_MS = 25000 };

/* Armv7-M Architecture Reference Manual, B3.2.4 and B3.3: the tick that ends a sleep, and its pending bit */
#define SYSTICK ((volatile uint32_t *)0xe000e010)
#define ICSR    (*(volatile uint32_t *)0xe000ed04)
enum { SYSTICK_CONTROL, SYSTICK_RELOAD, SYSTICK_ON = 7, CLEAR_TICK = 1 << 25, SLEEP_MS = 2 };

enum { MARK = 0x5a5a5a5a, ARGUMENTS = 16, COMMAND_BYTES = 256 };

/* The C library's, in images that have one. */
void exit(int status) __attribute__((weak, noreturn));
void initialise_monitor_handles(void) __attribute__((weak));

int board_ask_host(int operation, const void *argument)
{
	register int r0 __asm__("r0") = operation;
	register const void *r1 __asm__("r1") = argument;
	__asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
	return r0;
}

void board_print(const char *text)
{
	board_ask_host(SYS_WRITE0, text);
}

void board_exit(int status)
{
	board_ask_host(SYS_EXIT, (const void *)(status == 0 ? STOPPED : STOPPED_BY_ERROR));
	for (;;)
		;
}

uint32_t board_ticks(void)
{
	return UINT32_MAX - TIMER[TIMER_VALUE];
}

int64_t board_now_ms(void)
{
	static uint32_t last;
	static uint64_t ticks = TICKS_PER_MS;
	uint32_t now = board_ticks();
	ticks += now - last; /* around every 171 s */
	last = now;
	return (int64_t)(ticks / TICKS_PER_MS);
}

void board_sleep(void)
{
	if (SYSTICK[SYSTICK_CONTROL] == 0) {
		__asm__ volatile("cpsid i"); /* it wakes the processor, but interrupts nothing */
		SYSTICK[SYSTICK_RELOAD] = SLEEP_MS * TICKS_PER_MS;
		SYSTICK[SYSTICK_CONTROL] = SYSTICK_ON;
	}
	__asm__ volatile("dsb\n\twfi" : : : "memory");
	ICSR = CLEAR_TICK;
}

int64_t board_wall_s(void)
{
	return (uint32_t)board_ask_host(SYS_TIME, 0);
}

size_t board_read_file(const char *path, void *p, size_t n)
{
	size_t length = 0;
	while (path[length] != 0)
		length++;
	const uint32_t opening[] = {(uint32_t)(uintptr_t)path, 1 /* "rb" */, length};
	int file = board_ask_host(SYS_OPEN, opening);
	if (file < 0)
		return 0;
	const uint32_t reading[] = {(uint32_t)file, (uint32_t)(uintptr_t)p, n};
	uint32_t left = (uint32_t)board_ask_host(SYS_READ, reading), closing = (uint32_t)file;
	board_ask_host(SYS_CLOSE, &closing);
	return left <= n ? n - left : 0;
}

bool board_entropy(void *p, size_t n)
{
	return board_read_file("/dev/urandom", p, n) == n;
}

uint32_t board_random(void)
{
	uint32_t v = 0;
	board_entropy(&v, sizeof v);
	return v;
}

size_t board_stack_used(void)
{
	const volatile uint32_t *p = end;
	while (*p == MARK)
		p++;
	return (size_t)(stack_top - p) * sizeof *p;
}

size_t board_stack_size(void)
{
	return (size_t)(stack_top - end) * sizeof *end;
}

/* The words of QEMU's -append, or of its -semihosting-config arg=. */
static int read_arguments(char **argv)
{
	static char text[COMMAND_BYTES];
	const struct {
		char *p;
		int n;
	} block = {text, sizeof text};
	int argc = 0;
	if (board_ask_host(SYS_GET_CMDLINE, &block) != 0)
		return 0;
	for (char *c = text; *c != 0; c++) {
		if (*c == ' ')
			*c = 0;
		else if ((c == text || c[-1] == 0) && argc < ARGUMENTS)
			argv[argc++] = c;
	}
	return argc;
}

void reset(void);
void reset(void)
{
	static char *argv[ARGUMENTS + 1];
	for (uint32_t *to = data_start, *from = data_load; to < data_end;)
		*to++ = *from++;
	for (uint32_t *p = bss_start; p < bss_end;)
		*p++ = 0;
	/* Down to here nothing is in use yet; volatile, or it would become a call that uses the stack. */
	for (volatile uint32_t *p = end; p < (uint32_t *)__builtin_frame_address(0) - 64;)
		*p++ = MARK;
	TIMER[TIMER_RELOAD] = TIMER[TIMER_VALUE] = UINT32_MAX;
	TIMER[TIMER_CONTROL] = 1;
	if (initialise_monitor_handles != 0)
		initialise_monitor_handles();
	int status = main(read_arguments(argv), argv);
	if (exit != 0)
		exit(status);
	board_exit(status);
}

static void fault(void)
{
	board_print("the processor stopped the program: an access that is not allowed\n");
	board_exit(1);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
        stack_top, reset, fault, fault, fault, fault, fault};
