/* page.h - memory that ends where an unreadable page begins: reading past it is a crash. */
#ifndef CONFORMANCE_PAGE_H
#define CONFORMANCE_PAGE_H

#include <stddef.h>

/* A copy of bytes, flush against the page. Stays until the process ends. */
void *page_end(const void *from, size_t bytes);

#endif
