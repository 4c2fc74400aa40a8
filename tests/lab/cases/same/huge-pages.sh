# Large pages under random changes, in several threads at once: every page keeps what was written into it.
#: timeout 300
#: run --cpus 2 --memory 512M
cat > /tmp/huge.c <<'C'
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
enum { PAGES = 3 * 512, THREADS = 2, STEPS = 16 };
typedef struct { uint64_t seed; volatile uint64_t *at; uint64_t shadow[PAGES]; int bad; } Area;
static uint64_t next(Area *a) { a->seed ^= a->seed << 13; a->seed ^= a->seed >> 7; a->seed ^= a->seed << 17; return a->seed; }
static void check(Area *a, unsigned first, unsigned count, const char *what) {
    for (unsigned i = first; i < first + count; i++) if (a->at[i * 512 + 7] != a->shadow[i]) { if (!a->bad++) printf("%s: page %u has %lx, not %lx\n", what, i, a->at[i * 512 + 7], a->shadow[i]); }
}
static void fail(const char *what) { perror(what); exit(1); }
static void *work(void *arg) {
    Area *a = arg; const int rw = PROT_READ | PROT_WRITE, private = MAP_PRIVATE | MAP_ANONYMOUS;
    for (int step = 0; step < STEPS; step++) {
        unsigned first = next(a) % PAGES, count = 1 + next(a) % 100; if (next(a) % 3 == 0) first &= ~511u, count = 512; if (first + count > PAGES) count = PAGES - first;
        char *at = (char *)(a->at + first * 512ul); size_t len = count * 4096ul;
        switch (next(a) % 9) {
        case 0: case 1: case 2: for (unsigned i = first; i < first + count; i++) a->at[i * 512 + 7] = a->shadow[i] = next(a); break;
        case 3: check(a, first, count, "read"); break;
        case 4: if (madvise(at, len, MADV_DONTNEED)) fail("dontneed"); memset(a->shadow + first, 0, count * 8); break;
        case 5: if (mprotect(at, len, PROT_NONE) || mprotect(at, len, PROT_READ)) fail("mprotect"); check(a, first, count, "protected"); if (mprotect(at, len, rw)) fail("mprotect"); break;
        case 6: if (mmap(at, len, rw, private | MAP_FIXED, -1, 0) != at) fail("mmap"); if (next(a) % 2) madvise(at, len, MADV_HUGEPAGE); memset(a->shadow + first, 0, count * 8); break;
        case 7: { char *other = mremap(at, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP); if (other == MAP_FAILED) { if (next(a) % 2) break; break; }
            for (unsigned i = 0; i < count; i++) if (((uint64_t *)other)[i * 512 + 7] != a->shadow[first + i] && !a->bad++) printf("moved: page %u\n", first + i);
            if (mremap(other, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at) fail("mremap back"); break; }
        case 8: if (step % 10 == 0) { pid_t pid = fork(); if (pid < 0) fail("fork");
            if (pid == 0) { check(a, first, count, "child"); for (unsigned i = first; i < first + count; i++) a->at[i * 512 + 7] = 1; _exit(a->bad != 0); }
            int status; if (next(a) % 2) for (unsigned i = first; i < first + count; i++) a->at[i * 512 + 7] = a->shadow[i] = next(a);
            waitpid(pid, &status, 0); if (status && !a->bad++) printf("child: %x\n", status); } break;
        }
    }
    check(a, 0, PAGES, "end"); return 0;
}
int main(void) {
    setvbuf(stdout, 0, _IONBF, 0); static Area areas[THREADS]; pthread_t threads[THREADS]; int bad = 0;
    for (int i = 0; i < THREADS; i++) {
        char *at = mmap(0, (PAGES + 512) * 4096ul, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); if (at == MAP_FAILED) fail("mmap");
        at = (char *)(((uintptr_t)at + (2 << 20) - 1) & -(2ul << 20)); madvise(at, PAGES * 4096ul, MADV_HUGEPAGE);
        areas[i].at = (void *)at; areas[i].seed = 88172645463325252ul + i; pthread_create(&threads[i], 0, work, &areas[i]);
    }
    for (int i = 0; i < THREADS; i++) { pthread_join(threads[i], 0); bad += areas[i].bad; }
    char *at = mmap(0, 6 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); at = (char *)(((uintptr_t)at + (2 << 20) - 1) & -(2ul << 20));
    madvise(at, 4 << 20, MADV_HUGEPAGE); at[5] = 1; at[3 << 20] = 1;
    FILE *f = fopen("/proc/self/smaps", "r"); char line[256]; long huge = 0, n; while (fgets(line, sizeof line, f)) if (sscanf(line, "AnonHugePages: %ld", &n) == 1 && n == 4096) huge = n;
    printf("%s, %ld kB in large pages\n", bad ? "bad" : "good", huge); return bad != 0;
}
C
{ echo madvise > /sys/kernel/mm/transparent_hugepage/enabled; } 2> /dev/null
gcc -O1 -w -pthread -o /tmp/huge /tmp/huge.c && /tmp/huge
