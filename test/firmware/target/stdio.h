/* newlib's, whose formats lack %zu here. */
#include_next <stdio.h>

#ifndef TARGET_STDIO_H
#define TARGET_STDIO_H

#include <stdarg.h>

int target_vsnprintf(char *to, size_t n, const char *format, va_list list);
int target_snprintf(char *to, size_t n, const char *format, ...);
int target_printf(const char *format, ...);

#define vsnprintf target_vsnprintf
#define snprintf  target_snprintf
#define printf    target_printf

#endif
