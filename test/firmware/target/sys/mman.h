/* The guard pages of the unit tests on a Cortex-M: the processor's memory protection unit (Armv7-M
 * Architecture Reference Manual, B3.5) takes the place of pages, which are of 32 bytes then. Only what unit.h
 * needs. */
#ifndef MMAN_H
#define MMAN_H

#include <stddef.h>

#define PROT_NONE     0
#define PROT_READ     1
#define PROT_WRITE    2
#define MAP_PRIVATE   0
#define MAP_SHARED    0
#define MAP_ANONYMOUS 0
#define MAP_FAILED    NULL

void *mmap(void *at, size_t n, int protection, int flags, int fd, long offset);
int mprotect(void *at, size_t n, int protection);
int munmap(void *at, size_t n);

#endif
