/* Memory that is mapped directly, so that large buffers really go back to the system:
 * malloc raises its mmap threshold as blocks are freed and then keeps them.
 *
 * Always holds: a NULL result leaves the old mapping as it was.
 */
#ifndef PICOWS_PAGES_H
#define PICOWS_PAGES_H

#include <stddef.h>
#include <string.h>

#ifdef _WIN32

#include <windows.h>

static inline void *picows_pages_map(size_t size)
{
    return VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

static inline void picows_pages_unmap(void *pages, size_t size)
{
    (void)size;
    VirtualFree(pages, 0, MEM_RELEASE);
}

#else

#include <sys/mman.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

static inline void *picows_pages_map(size_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

static inline void picows_pages_unmap(void *pages, size_t size)
{
    munmap(pages, size);
}

#endif

/* Make a mapping larger. Linux moves the pages without touching them; elsewhere `used` bytes are copied. */
static inline void *picows_pages_grow(void *pages, size_t size, size_t used, size_t new_size)
{
#ifdef MREMAP_MAYMOVE
    void *moved = mremap(pages, size, new_size, MREMAP_MAYMOVE);
    (void)used;
    return moved == MAP_FAILED ? NULL : moved;
#else
    void *moved = picows_pages_map(new_size);
    if (moved != NULL) {
        memcpy(moved, pages, used);
        picows_pages_unmap(pages, size);
    }
    return moved;
#endif
}

#endif
