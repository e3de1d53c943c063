/* The emulated board (QEMU's mps2-an385, a Cortex-M3): start-up, the time, the host's console and files by
 * semihosting, and how deep the stack has been. For tests only. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

int main(int argc, char **argv);

/* Semihosting (Arm's Semihosting for AArch32 and AArch64, §5): asks the host. */
int board_ask_host(int operation, const void *argument);
void board_print(const char *text);
void board_exit(int status) __attribute__((noreturn));

/* Milliseconds since the start, from 1 on. To be called at least every 2 s. */
int64_t board_now_ms(void);

/* Bytes of stack that were ever in use, and all there are. */
size_t board_stack_used(void);
size_t board_stack_size(void);

#endif
