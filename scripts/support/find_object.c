/* Lets gcc's unwinder work in a static musl binary, for scripts/support/debian-musl.
 *
 * Since version 12 the unwinder asks the C library for the module that an instruction is in, by a function that only
 * glibc has. This is that function for a static binary, which is one module. */
#define _GNU_SOURCE
#include <link.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* As in glibc's <dlfcn.h>, for a machine whose stack needs no word on the data segment. */
struct dl_find_object {
    unsigned long long flags;
    void *map_start, *map_end;
    void *link_map;
    void *eh_frame;
    unsigned long long reserved[7];
};

struct search {
    uintptr_t instruction;
    struct dl_find_object *result;
};

static int look(struct dl_phdr_info *module, size_t size, void *data)
{
    struct search *search = data;
    uintptr_t start = 0, end = 0;
    void *frames = NULL;
    (void)size;
    for (const ElfW(Phdr) *p = module->dlpi_phdr; p < module->dlpi_phdr + module->dlpi_phnum; p++) {
        uintptr_t from = module->dlpi_addr + p->p_vaddr, to = from + p->p_memsz;
        if (p->p_type == PT_GNU_EH_FRAME)
            frames = (void *)from;
        if (p->p_type == PT_LOAD && from <= search->instruction && search->instruction < to)
            start = from, end = to;
    }
    if (!frames || !end)
        return 0;
    *search->result = (struct dl_find_object){.map_start = (void *)start, .map_end = (void *)end, .eh_frame = frames};
    return 1;
}

int _dl_find_object(void *instruction, struct dl_find_object *result)
{
    struct search search = {(uintptr_t)instruction, result};
    return dl_iterate_phdr(look, &search) ? 0 : -1;
}

/* The unwinder refers to these weakly, which takes nothing out of a static library: it would call address 0. */
__attribute__((used)) static void *const needed[] = {
    (void *)pthread_once, (void *)pthread_mutex_lock,  (void *)pthread_mutex_unlock,
    (void *)pthread_key_create, (void *)pthread_getspecific, (void *)pthread_setspecific,
};
