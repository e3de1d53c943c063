/* inet_pton and inet_ntop as glibc has them, for the tests on targets without them. */
#ifndef INET_H
#define INET_H

#include <stddef.h>

enum { AF_INET = 2, AF_INET6 = 10 };
int inet_pton(int family, const char *text, void *ip);
const char *inet_ntop(int family, const void *ip, char *text, size_t n);

#endif
