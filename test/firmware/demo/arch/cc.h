/* What lwIP asks of a compiler and a board. */
#ifndef CC_H
#define CC_H

#include <stdint.h>

#include "board.h"

#define LWIP_NO_INTTYPES_H      1
#define LWIP_NO_CTYPE_H         1
#define LWIP_PLATFORM_DIAG(x)   ((void)0)
#define LWIP_PLATFORM_ASSERT(x) (board_print("lwIP: " x "\n"), board_exit(1))
#define LWIP_NO_UNISTD_H        1
#define LWIP_RAND()             ((uint32_t)board_random())
#define U16_F                   "u"
#define S16_F                   "d"
#define X16_F                   "x"
#define U32_F                   "lu"
#define S32_F                   "ld"
#define X32_F                   "lx"
#define SZT_F                   "u"

#endif
