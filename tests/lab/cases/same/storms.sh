# Four CPUs: faults, TLB shootdown, copy on write, forks, futexes, pipes, signals, exec and exit of busy threads, timers.
#: timeout 400
#: run --cpus 4 --memory 1G
#: filter /took/d
cat > /tmp/smp.c <<'C'
// Storms on several CPUs. Each ends with a line that is the same wherever it runs.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static int scale = 1;
static void run(int n, void *(*f)(void *)) { pthread_t t[64]; for (long i = 0; i < n; i++) if (pthread_create(&t[i], 0, f, (void *)i)) { printf("no thread\n"); exit(1); } for (int i = 0; i < n; i++) pthread_join(t[i], 0); }
static atomic_long bad, sum;
static char *shared;
static void *fault_storm(void *a) {
    long me = (long)a; unsigned seed = me;
    for (int i = 0; i < 300 / scale; i++) {
        size_t pages = 1 + rand_r(&seed) % 32; char *p = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t k = 0; k < pages; k++) { if (p[k * 4096] != 0) bad++; p[k * 4096] = me + 1; }
        mprotect(p, pages * 4096, PROT_READ); for (size_t k = 0; k < pages; k++) if (p[k * 4096] != me + 1) bad++;
        mprotect(p, pages * 4096, PROT_READ | PROT_WRITE); p[0]++; if (i % 3 == 0) madvise(p, pages * 4096, MADV_DONTNEED), bad += p[0] != 0;
        munmap(p, pages * 4096); atomic_fetch_add((atomic_long *)(shared + (i % 64) * 4096 + 8), 1); sum++;
    }
    return 0;
}
static void t_faults(void) {
    shared = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); run(4, fault_storm);
    long total = 0; for (int i = 0; i < 64; i++) total += *(long *)(shared + i * 4096 + 8); printf("faults: %ld bad, %s\n", bad, total == sum ? "all counted" : "LOST WRITES");
}
// A page is made unreadable or replaced while others read it: after munmap or mprotect returned, no CPU may still see the old page.
static atomic_int round_no, seen[4]; static atomic_int stop; static volatile char *target; static atomic_long stale; static __thread volatile int probing;
static __thread long long expect;
static void *reader(void *a) {
    long me = (long)a;
    while (!stop) { int r = round_no; int v = *(volatile int *)target; int after = round_no; if (v < r) stale++; (void)after; seen[me]++; }
    return 0;
}
static void t_shootdown(void) {
    // The page is replaced by one with the number of the round; a reader that sees an older number than the round it read before is stale.
    target = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); int fd = memfd_create("rounds", 0); int n = 1500 / scale; if (ftruncate(fd, (n + 1) * 4096l)) {}
    for (int i = 0; i <= n; i++) pwrite(fd, &i, 4, i * 4096l);
    mmap((void *)target, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    pthread_t t[3]; for (long i = 0; i < 3; i++) pthread_create(&t[i], 0, reader, (void *)i);
    for (int i = 1; i <= n; i++) { mmap((void *)target, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, fd, i * 4096l); round_no = i; if (i % 50 == 0) sched_yield(); }
    stop = 1; for (int i = 0; i < 3; i++) pthread_join(t[i], 0); printf("shootdown: %ld stale\n", stale);
}
static void *cow_thread(void *a) { long *p = (long *)shared; while (!stop) { for (int i = 0; i < 512; i++) p[i * 512 + (long)a]++; sum++; } return 0; }
static void t_cow(void) { // fork while threads write: the child sees a fixed image, the parent loses no write
    shared = mmap(0, 512 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); stop = 0; pthread_t t[3];
    for (long i = 0; i < 3; i++) pthread_create(&t[i], 0, cow_thread, (void *)i);
    for (int i = 0; i < 60 / scale; i++) {
        pid_t pid = fork();
        if (pid == 0) { long a[3], *p = (long *)shared; for (int k = 0; k < 3; k++) a[k] = p[k]; usleep(500); for (int k = 0; k < 3; k++) if (a[k] != p[k]) _exit(1); _exit(0); }
        int status; waitpid(pid, &status, 0); bad += status != 0;
    }
    stop = 1; for (int i = 0; i < 3; i++) pthread_join(t[i], 0); long total = 0; for (int i = 0; i < 512; i++) for (int k = 0; k < 3; k++) total += ((long *)shared)[i * 512 + k];
    printf("cow: %ld bad, %s\n", bad, total == sum * 512 ? "all counted" : "LOST WRITES");
}
static void *forker(void *a) {
    for (int i = 0; i < 125 / scale; i++) { pid_t pid = fork(); if (pid == 0) { char *const av[] = { "/proc/self/exe", "nothing", 0 }; if (i % 2) { execv("/bin/true", av); _exit(99); } _exit(0); } int s; if (pid < 0 || waitpid(pid, &s, 0) != pid || s) bad++; sum++; }
    return 0;
}
static void t_forks(void) { run(4, forker); printf("forks: %ld bad\n", bad); }
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; static pthread_cond_t c = PTHREAD_COND_INITIALIZER; static int turn; static long count;
static void *pingpong(void *a) { int me = (long)a; for (int i = 0; i < 3000 / scale; i++) { pthread_mutex_lock(&m); while (turn != me) pthread_cond_wait(&c, &m); turn = !me; count++; pthread_cond_broadcast(&c); pthread_mutex_unlock(&m); } return 0; }
static void t_pingpong(void) { run(2, pingpong); printf("pingpong: %ld\n", count * scale); }
static void *storm(void *a) { for (int i = 0; i < 300 / scale; i++) { pthread_mutex_lock(&m); count++; if (i % 10 == 0) { pthread_cond_broadcast(&c); struct timespec t; clock_gettime(CLOCK_REALTIME, &t); t.tv_nsec += 200000; if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000; pthread_cond_timedwait(&c, &m, &t); } pthread_mutex_unlock(&m); if (i % 7 == 0) sched_yield(); } return 0; }
static void t_storm(void) { run(64, storm); printf("storm: %ld\n", count * scale); }
static int p1[2], p2[2];
static void t_pipes(void) {
    if (pipe(p1) | pipe(p2)) return; int n = 3000 / scale; pid_t pid = fork(); char b[8];
    if (pid == 0) { for (int i = 0; i < n; i++) { if (read(p1[0], b, 1) != 1) _exit(1); b[0]++; if (write(p2[1], b, 1) != 1) _exit(2); } _exit(0); }
    for (int i = 0; i < n; i++) { b[0] = i; write(p1[1], b, 1); read(p2[0], b, 1); if (b[0] != (char)(i + 1)) bad++; }
    int s; waitpid(pid, &s, 0); printf("pipes: %ld bad, child %d\n", bad, s);
}
static atomic_long handled; static void on(int s) { handled++; }
static void *spin(void *a) { while (!stop) { if ((long)a & 1) getppid(); else for (volatile int i = 0; i < 100; i++); } return 0; }
static void t_signals(void) { // to threads while they run and while they call
    struct sigaction sa = { .sa_handler = on, .sa_flags = SA_RESTART }; sigaction(SIGUSR1, &sa, 0); pthread_t t[3]; for (long i = 0; i < 3; i++) pthread_create(&t[i], 0, spin, (void *)i);
    int n = 600 / scale; for (int i = 0; i < n; i++) { long before = handled; pthread_kill(t[i % 3], SIGUSR1); struct timespec w0, w1; clock_gettime(CLOCK_MONOTONIC, &w0); while (handled == before) { sched_yield(); clock_gettime(CLOCK_MONOTONIC, &w1); if (w1.tv_sec - w0.tv_sec > 10) { bad++; break; } } }
    stop = 1; for (int i = 0; i < 3; i++) pthread_join(t[i], 0); printf("signals: %ld of %d, %ld lost\n", (long)handled * scale, n * scale, bad);
}
static void *forever(void *a) { switch ((long)a % 4) { case 0: for (;;); case 1: for (;;) getppid(); case 2: pause(); default: { int p[2]; pipe(p); char b; read(p[0], &b, 1); } } return 0; }
static void *execer(void *a) { usleep(200); char *const av[] = { "true", 0 }; execv("/bin/true", av); _exit(98); }
static void t_exec(void) { // exec of a thread that is not the leader, with others busy
    for (int i = 0; i < 40 / scale; i++) { pid_t pid = fork(); if (pid == 0) { pthread_t t; for (long k = 0; k < 6; k++) pthread_create(&t, 0, forever, (void *)k); pthread_create(&t, 0, execer, 0); for (;;) pause(); } int s; if (waitpid(pid, &s, 0) != pid || s) bad++; }
    printf("exec: %ld bad\n", bad);
}
static void *exiter(void *a) { usleep(300); _exit(7); }
static void t_exits(void) { // exit_group of several threads at once, and kill -9 of busy threads
    for (int i = 0; i < 80 / scale; i++) {
        pid_t pid = fork(); if (pid == 0) { pthread_t t; for (long k = 0; k < 6; k++) pthread_create(&t, 0, forever, (void *)k); if (i % 2) for (long k = 0; k < 3; k++) pthread_create(&t, 0, exiter, 0); for (;;) pause(); }
        int s; if (i % 2 == 0) { usleep(i * 50); kill(pid, SIGKILL); } if (waitpid(pid, &s, 0) != pid || !(i % 2 ? WIFEXITED(s) && WEXITSTATUS(s) == 7 : WIFSIGNALED(s) && WTERMSIG(s) == 9)) bad++;
    }
    printf("exits: %ld bad\n", bad);
}
static void *sleeper(void *a) { for (int i = 0; i < 100 / scale; i++) { struct timespec t = { 0, 100000 + (long)a * 7000 }, w0, w1; clock_gettime(CLOCK_MONOTONIC, &w0); nanosleep(&t, 0); clock_gettime(CLOCK_MONOTONIC, &w1); long d = (w1.tv_sec - w0.tv_sec) * 1000000000l + w1.tv_nsec - w0.tv_nsec; if (d < t.tv_nsec) bad++; sum++; } return 0; }
static void t_timers(void) { run(16, sleeper); printf("timers: %ld early\n", bad); }
static atomic_int word; 
static void *waiter(void *a) { for (int i = 0; i < 1000 / scale; i++) { int v; while ((v = word) <= i) { struct timespec t = { 20, 0 }; if (syscall(SYS_futex, &word, FUTEX_WAIT, v, &t, 0, 0) < 0 && errno == ETIMEDOUT) { bad++; return 0; } } } return 0; }
static void *waker(void *a) { for (int i = 0; i < 1000 / scale; i++) { if (i % 20 == 0) usleep(50); word++; syscall(SYS_futex, &word, FUTEX_WAKE, 1000, 0, 0, 0); } return 0; }
static void t_wakes(void) { pthread_t t[6]; for (long i = 0; i < 5; i++) pthread_create(&t[i], 0, waiter, 0); pthread_create(&t[5], 0, waker, 0); for (int i = 0; i < 6; i++) pthread_join(t[i], 0); printf("wakes: %ld lost\n", bad); }
static void t_fair(void) { // a flood of system calls must not starve others, nor a program that never calls
    pid_t p[4]; for (int i = 0; i < 4; i++) if (!(p[i] = fork())) for (;;) if (i & 1) getppid();
    struct timespec w0, w1; clock_gettime(CLOCK_MONOTONIC, &w0); for (int i = 0; i < 20; i++) usleep(1000); clock_gettime(CLOCK_MONOTONIC, &w1); double took = w1.tv_sec - w0.tv_sec + (w1.tv_nsec - w0.tv_nsec) / 1e9;
    for (int i = 0; i < 4; i++) kill(p[i], SIGKILL); for (int i = 0; i < 4; i++) waitpid(p[i], 0, 0); printf("fair: %s\n", took < 8 ? "in time" : "STARVED"); fprintf(stderr, "fair: 20 sleeps of 1 ms took %.2f s\n", took);
}
static void *nothing(void *a) { return a; }
static void t_threads(void) { for (int i = 0; i < 1000 / scale; i++) { pthread_t t[2]; for (int k = 0; k < 2; k++) if (pthread_create(&t[k], 0, nothing, 0)) bad++; for (int k = 0; k < 2; k++) pthread_join(t[k], 0); } printf("threads: %ld bad\n", bad); }
static const struct { const char *name; void (*f)(void); } all[] = { { "faults", t_faults }, { "shootdown", t_shootdown }, { "cow", t_cow }, { "forks", t_forks }, { "pingpong", t_pingpong }, { "storm", t_storm }, { "pipes", t_pipes }, { "signals", t_signals },
    { "exec", t_exec }, { "exits", t_exits }, { "timers", t_timers }, { "wakes", t_wakes }, { "fair", t_fair }, { "threads", t_threads } };
int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IONBF, 0); if (getenv("SCALE")) scale = atoi(getenv("SCALE"));
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        if (argc > 1 && strcmp(argv[1], all[i].name)) continue;
        struct timespec w0, w1; clock_gettime(CLOCK_MONOTONIC, &w0);
        pid_t pid = fork(); if (!pid) { alarm(100); all[i].f(); exit(0); } int s; waitpid(pid, &s, 0); if (s) printf("%s: ended with %x\n", all[i].name, s);
        clock_gettime(CLOCK_MONOTONIC, &w1); fprintf(stderr, "%s took %.2f s\n", all[i].name, w1.tv_sec - w0.tv_sec + (w1.tv_nsec - w0.tv_nsec) / 1e9);
    }
}
C
gcc -O1 -w -static -pthread -o /tmp/smp /tmp/smp.c && SCALE=30 /tmp/smp
