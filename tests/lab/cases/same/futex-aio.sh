# Futexes of priority inheritance, on several words, of futex2's calls; and kernel AIO with its ring.
#: timeout 60
cat > /tmp/fx.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void say(const char *what, long n) { printf("%s: %ld%s%s\n", what, n, n < 0 ? " " : "", n < 0 ? strerror(errno) : ""); }
static uint32_t w[4];
static long fx(uint32_t *a, int op, uint32_t v, void *t, uint32_t *b, uint32_t v3) { return syscall(SYS_futex, a, op, v, t, b, v3); }
struct waitv { uint64_t val, addr; uint32_t flags, res; };
static void *waker(void *p) { usleep(50000); fx(&w[1], FUTEX_WAKE | 128, 1, 0, 0, 0); return 0; }
static void *locker(void *p) { long r = fx(&w[0], FUTEX_LOCK_PI | 128, 0, 0, 0, 0); printf("second has it: %ld %d waiters %d\n", r, (w[0] & 0x3fffffff) == syscall(SYS_gettid), w[0] >> 31); fx(&w[0], FUTEX_UNLOCK_PI | 128, 0, 0, 0, 0); return 0; }
static void *dier(void *p) { fx(&w[0], FUTEX_LOCK_PI | 128, 0, 0, 0, 0); usleep(50000); return 0; }
static pthread_mutex_t m; static void *robust(void *p) { pthread_mutex_lock(&m); return 0; }
int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0); pthread_t t; struct timespec ts; int tid = syscall(SYS_gettid);
    puts("-- pi"); say("lock", fx(&w[0], FUTEX_LOCK_PI | 128, 0, 0, 0, 0)); printf("mine %d\n", w[0] == tid); say("again", fx(&w[0], FUTEX_LOCK_PI | 128, 0, 0, 0, 0)); pthread_create(&t, 0, locker, 0); while (!(w[0] >> 31)) usleep(1000); say("unlock", fx(&w[0], FUTEX_UNLOCK_PI | 128, 0, 0, 0, 0)); pthread_join(t, 0); printf("free %u\n", w[0]); say("unlock not mine", fx(&w[0], FUTEX_UNLOCK_PI | 128, 0, 0, 0, 0)); w[0] = 1; clock_gettime(CLOCK_REALTIME, &ts); ts.tv_nsec += 20000000; if (ts.tv_nsec > 999999999) { ts.tv_sec++; ts.tv_nsec -= 1000000000; } say("time out", fx(&w[0], FUTEX_LOCK_PI | 128, 0, &ts, 0, 0)); w[0] = 1; say("try", fx(&w[0], FUTEX_TRYLOCK_PI | 128, 0, 0, 0, 0)); w[0] = 0x3ffffff0; say("no owner", fx(&w[0], FUTEX_LOCK_PI | 128, 0, 0, 0, 0)); w[0] = 0x40000000; say("died", fx(&w[0], FUTEX_LOCK_PI | 128, 0, 0, 0, 0)); printf("%d\n", w[0] == (0x40000000 | tid)); w[0] = 0;
    pthread_mutexattr_t a; pthread_mutexattr_init(&a); pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT); pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST); pthread_mutex_init(&m, &a); pthread_create(&t, 0, robust, 0); pthread_join(t, 0); printf("robust %s\n", strerror(pthread_mutex_lock(&m))); printf("%d %d\n", pthread_mutex_consistent(&m), pthread_mutex_unlock(&m));
    puts("-- waitv"); struct waitv v[3] = {{0, (uintptr_t)&w[0], 2 | 128}, {0, (uintptr_t)&w[1], 2 | 128}, {0, (uintptr_t)&w[2], 2 | 128}}; w[0] = w[1] = w[2] = 0; pthread_create(&t, 0, waker, 0); say("woken", syscall(449, v, 3, 0, 0, 0)); pthread_join(t, 0); v[2].val = 1; say("differs", syscall(449, v, 3, 0, 0, 0)); v[2].val = 0; ts = (struct timespec){0, 1}; say("time out", syscall(449, v, 3, 0, &ts, CLOCK_MONOTONIC)); say("none", syscall(449, v, 0, 0, 0, 0)); say("many", syscall(449, v, 129, 0, 0, 0)); say("flags", syscall(449, v, 1, 1, 0, 0)); v[0].flags = 1; say("size", syscall(449, v, 1, 0, 0, 0)); say("clock", syscall(449, v + 1, 1, 0, &ts, 5)); say("fault", syscall(449, 8, 1, 0, 0, 0));
    puts("-- aio"); aio_context_t c = 0; say("setup", syscall(SYS_io_setup, 8, &c)); say("again", syscall(SYS_io_setup, 8, &c)); aio_context_t c2 = 0; say("zero", syscall(SYS_io_setup, 0, &c2)); struct { unsigned id, nr, head, tail, magic, compat, incompat, length; } *ring = (void *)c; printf("%x %u %u\n", ring->magic, ring->compat, ring->length);
    int f = open("/tmp/aio.data", O_RDWR | O_CREAT | O_TRUNC, 0600), e = eventfd(0, EFD_NONBLOCK); char b[100] = {0}; struct iocb w1 = {.aio_data = 7, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = f, .aio_buf = (uintptr_t)"asynchronous", .aio_nbytes = 12, .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = e}, r1 = {.aio_data = 8, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = f, .aio_buf = (uintptr_t)b, .aio_nbytes = 99, .aio_offset = 1}, bad = {.aio_lio_opcode = 77, .aio_fildes = f}, *l[3] = {&w1, &r1, &bad}; say("submit", syscall(SYS_io_submit, c, 3, l)); printf("ring %u\n", ring->tail - ring->head); uint64_t n; read(e, &n, 8); printf("eventfd %lu\n", n); struct io_event ev[8]; say("events", syscall(SYS_io_getevents, c, 2, 8, ev, 0)); for (int i = 0; i < 2; i++) printf("%llu %lld %d\n", ev[i].data, ev[i].res, ev[i].obj == (uintptr_t)l[i]); printf("%s\n", b); ts = (struct timespec){0, 10000000}; say("none", syscall(SYS_io_getevents, c, 1, 8, ev, &ts)); l[0] = &bad; say("bad", syscall(SYS_io_submit, c, 1, l)); bad.aio_lio_opcode = 0; bad.aio_fildes = 99; say("bad fd", syscall(SYS_io_submit, c, 1, l)); bad.aio_fildes = f; bad.aio_buf = 8; bad.aio_nbytes = 4; say("fault", syscall(SYS_io_submit, c, 1, l)); syscall(SYS_io_getevents, c, 1, 8, ev, 0); printf("res %lld\n", ev[0].res); l[0] = (void *)8; say("pointer", syscall(SYS_io_submit, c, 1, l)); say("negative", syscall(SYS_io_submit, c, -1, l)); say("min", syscall(SYS_io_getevents, c, 9, 8, ev, 0));
    int pp[2]; pipe(pp); struct iocb p1 = {.aio_data = 9, .aio_lio_opcode = IOCB_CMD_POLL, .aio_fildes = pp[0], .aio_buf = POLLIN}; l[0] = &p1; say("poll", syscall(SYS_io_submit, c, 1, l)); ts = (struct timespec){0, 0}; say("not yet", syscall(SYS_io_getevents, c, 1, 8, ev, &ts)); if (!fork()) { usleep(50000); write(pp[1], "x", 1); _exit(0); } say("ready", syscall(SYS_io_getevents, c, 1, 8, ev, 0)); printf("%llu %lld\n", ev[0].data, ev[0].res & POLLIN); wait(0); say("bad context", syscall(SYS_io_submit, 4096, 1, l)); say("destroy", syscall(SYS_io_destroy, c)); say("gone", syscall(SYS_io_destroy, c)); say("unmapped", msync((void *)c, 4096, MS_ASYNC));
    return 0;
}
C
gcc -w -O1 -o /tmp/fxb /tmp/fx.c -lpthread && /tmp/fxb
