/* The emulated board (QEMU's mps2-an385, a Cortex-M3): start-up, the time, the host's console and files by
 * semihosting, and how deep the stack has been. For tests only. */
#ifndef BOARD_H
#define BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int main(int argc, char **argv);

/* Semihosting (Arm's Semihosting for AArch32 and AArch64, §5): asks the host. */
int board_ask_host(int operation, const void *argument);
void board_print(const char *text);
void board_exit(int status) __attribute__((noreturn));

/* Milliseconds since the start, from 1 on. To be called at least every 2 min. */
int64_t board_now_ms(void);

/* Units of 40 ns, through 32 bits. Under QEMU's -icount shift=0 an instruction takes 1 ns. */
uint32_t board_ticks(void);

/* Waits for a few milliseconds. */
void board_sleep(void);

/* What the chip of a product would have itself; here they come from the host: seconds since 1970,
 * unpredictable bytes (false: there are none), and 32 of their bits. */
int64_t board_wall_s(void);
bool board_entropy(void *p, size_t n);
uint32_t board_random(void);

/* Reads a file of the host's, up to n bytes, and returns how many: 0 when there is none. */
size_t board_read_file(const char *path, void *p, size_t n);

/* Bytes of stack that were ever in use, and all there are. */
size_t board_stack_used(void);
size_t board_stack_size(void);

#endif
