# Programs that eat one thing until they are stopped, in little memory: their parent goes on.
#: timeout 900
cat > /tmp/eat.c <<'C'
// Programs that eat one thing until they are stopped: each in a child of a parent that must go on.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static void more_files(void) { struct rlimit l; getrlimit(RLIMIT_NOFILE, &l); l.rlim_cur = l.rlim_max; setrlimit(RLIMIT_NOFILE, &l); }
static void e_anonymous(void) { for (;;) { char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); if (p == MAP_FAILED) _exit(3); memset(p, 1, 1 << 20); } }
static void e_populate(void) { for (;;) { char *p = mmap(0, 1 << 24, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0); if (p == MAP_FAILED) _exit(3); } }
static void e_shared(void) { for (;;) { char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); if (p == MAP_FAILED) _exit(3); memset(p, 1, 1 << 20); } }
static void e_tmpfs(void) { int fd = open("/tmp/big", O_RDWR | O_CREAT, 0600); static char b[65536]; b[0] = 1; for (;;) if (write(fd, b, sizeof b) < 0) { int e = errno; close(fd); unlink("/tmp/big"); _exit(e == ENOSPC || e == ENOMEM ? 3 : 4); } }
static void e_tmpfs_map(void) { int fd = open("/tmp/map", O_RDWR | O_CREAT, 0600); unlink("/tmp/map"); if (ftruncate(fd, 1l << 31)) _exit(3); char *p = mmap(0, 1l << 31, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); for (long i = 0; i < 1l << 31; i += 4096) p[i] = 1; _exit(5); }
static void e_memfd(void) { int fd = memfd_create("x", 0); static char b[65536]; for (;;) if (write(fd, b, sizeof b) < 0) _exit(3); }
static void e_mmaps(void) { long n = 0; while (mmap(0, 4096, n++ & 1 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) ; _exit(3); }
static void e_sparse(void) { // one page in each 2 MiB: page tables
    for (;;) { char *p = mmap(0, 1l << 38, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); if (p == MAP_FAILED) _exit(3); for (long i = 0; i < 1l << 38; i += 1 << 21) (void)*(volatile char *)(p + i); } }
static int deep(int n) { volatile char room[4096]; room[0] = n; return deep(n + 1) + room[0]; }
static void e_stack(void) { struct rlimit l = { RLIM_INFINITY, RLIM_INFINITY }; setrlimit(RLIMIT_STACK, &l); deep(0); }
static void e_files(void) { more_files(); while (open("/bin/true", O_RDONLY) >= 0) ; _exit(3); }
static void e_pipes(void) { more_files(); int p[2]; static char b[65536]; while (pipe2(p, O_NONBLOCK) == 0) { fcntl(p[1], F_SETPIPE_SZ, 1 << 20); while (write(p[1], b, sizeof b) > 0) ; } _exit(3); }
static void e_sockets(void) { more_files(); int p[2]; static char b[65536]; while (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p) == 0) while (write(p[1], b, sizeof b) > 0) ; _exit(3); }
static void e_epolls(void) { more_files(); int e = epoll_create1(0), f; while ((f = eventfd(0, 0)) >= 0) { struct epoll_event v = { EPOLLIN }; epoll_ctl(e, EPOLL_CTL_ADD, f, &v); int g = epoll_create1(0); if (g < 0) break; epoll_ctl(g, EPOLL_CTL_ADD, f, &v); } _exit(3); }
static void *sit(void *a) { pause(); return 0; }
static void e_threads(void) { pthread_attr_t a; pthread_attr_init(&a); pthread_attr_setstacksize(&a, 16384); pthread_t t; while (pthread_create(&t, &a, sit, 0) == 0) ; _exit(3); }
static void e_forks(void) { for (;;) fork(); }
static void e_fork_wait(void) { for (;;) { pid_t p = fork(); if (p < 0) { kill(0, SIGKILL); _exit(3); } if (p == 0) pause(); } }
static void e_zombies(void) { for (;;) { pid_t p = fork(); if (p < 0) _exit(3); if (p == 0) _exit(0); } }
static void e_dirs(void) { char n[64]; mkdir("/tmp/many", 0700); for (long i = 0;; i++) { sprintf(n, "/tmp/many/%ld", i); if (mkdir(n, 0700)) break; } if (!fork()) execl("/bin/sh", "sh", "rm", "-rf", "/tmp/many", NULL); _exit(3); }
static void e_names(void) { char n[300]; memset(n, 'x', 250); n[250] = 0; memcpy(n, "/bin/", 5); for (long i = 0; i < 400000; i++) { sprintf(n + 200, "%ld", i); struct stat s; stat(n, &s); } _exit(3); } // names that are not there
static void e_deep_dirs(void) { mkdir("/tmp/deep", 0700); chdir("/tmp/deep"); for (int i = 0; i < 20000; i++) if (mkdir("d", 0700) || chdir("d")) break; _exit(3); }
static void e_signals(void) { sigset_t s; sigfillset(&s); sigprocmask(SIG_BLOCK, &s, 0); union sigval v = { 0 }; for (long i = 0; i < 2000000; i++) if (sigqueue(getpid(), SIGRTMIN, v)) break; _exit(3); }
static void e_timers(void) { timer_t t; struct sigevent e = { .sigev_notify = SIGEV_NONE }; for (long i = 0; i < 1000000; i++) if (timer_create(CLOCK_MONOTONIC, &e, &t)) break; _exit(3); }
static void e_args(void) { size_t n = 30 << 20; char *big = malloc(n); memset(big, 'x', n); big[n - 1] = 0; char *av[] = { "true", big, 0 }; execv("/bin/true", av); size_t many = 2 << 20; char **list = malloc((many + 1) * 8); for (size_t i = 0; i < many; i++) list[i] = "argument"; list[many] = 0; execv("/bin/true", list); _exit(errno == E2BIG || errno == ENOMEM ? 3 : 4); }
static void e_locks(void) { int fd = open("/tmp/locks", O_RDWR | O_CREAT, 0600); for (long i = 0; i < 1000000; i++) { struct flock f = { F_WRLCK, SEEK_SET, i * 2, 1 }; if (fcntl(fd, F_SETLK, &f)) break; } _exit(3); }
static void e_iovec(void) { for (int i = 0; i < 100; i++) { static struct { void *p; size_t n; } v[1024]; char *m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); for (int k = 0; k < 1024; k++) v[k].p = m, v[k].n = 1 << 20; int fd = open("/dev/null", O_RDWR); writev(fd, (void *)v, 1024); munmap(m, 1 << 20); close(fd); } _exit(3); }
static const struct { const char *name; void (*f)(void); } all[] = { { "anonymous", e_anonymous }, { "populate", e_populate }, { "shared", e_shared }, { "tmpfs", e_tmpfs }, { "tmpfs_map", e_tmpfs_map }, { "memfd", e_memfd }, { "mmaps", e_mmaps }, { "sparse", e_sparse }, { "stack", e_stack },
    { "files", e_files }, { "pipes", e_pipes }, { "sockets", e_sockets }, { "epolls", e_epolls }, { "threads", e_threads }, { "forks", e_forks }, { "fork_wait", e_fork_wait }, { "zombies", e_zombies }, { "names", e_names }, { "deep_dirs", e_deep_dirs }, { "signals", e_signals },
    { "timers", e_timers }, { "args", e_args }, { "locks", e_locks }, { "iovec", e_iovec }, { "dirs", e_dirs } };
int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IONBF, 0); int failed = 0;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        if (argc > 1 && strcmp(argv[1], all[i].name)) continue;
        double start = now(); pid_t pid = fork(); if (pid < 0) { printf("FAIL %s: fork: %s\n", all[i].name, strerror(errno)); failed = 1; continue; }
        if (pid == 0) { setpgid(0, 0); all[i].f(); _exit(0); }
        setpgid(pid, pid); int s = -1, gone = 0;
        while (now() - start < 25) { if (waitpid(pid, &s, WNOHANG) == pid) { gone = 1; break; } usleep(2000); }
        double eaten = now() - start; kill(-pid, SIGKILL); if (!gone) waitpid(pid, &s, 0);
        double killed = now(); while (waitpid(-1, 0, WNOHANG) >= 0) { if (now() - killed > 20) { printf("FAIL %s: children stay\n", all[i].name); failed = 1; break; } usleep(1000); kill(-pid, SIGKILL); }
        // The parent can go on: memory, a process.
        char *p = malloc(8 << 20); if (!p) { printf("FAIL %s: no memory after it\n", all[i].name); failed = 1; } else { memset(p, 1, 8 << 20); free(p); }
        fprintf(stderr, "%s: %s, %s %d, %.2f s\n", all[i].name, gone ? "ended" : "went on", WIFSIGNALED(s) ? "signal" : "exit", WIFSIGNALED(s) ? WTERMSIG(s) : WEXITSTATUS(s), eaten);
        if (WIFEXITED(s) && WEXITSTATUS(s) > 3) { printf("FAIL %s: exit %d\n", all[i].name, WEXITSTATUS(s)); failed = 1; }
    }
    printf("%s\n", failed ? "failed" : "all eaten, still here"); return failed;
}
C
mkdir -p /tmp/img/bin /tmp/img/tmp /tmp/img/dev /tmp/img/proc /tmp/img/sys /tmp/img/etc
printf 'int main(){return 0;}' > /tmp/true.c; gcc -O1 -static -o /tmp/img/bin/true /tmp/true.c
gcc -O1 -w -static -pthread -o /tmp/img/bin/eat /tmp/eat.c && ringfence image build /tmp/img -o /tmp/eat.erofs || exit 1
failed=0
for memory in 64M 128M; do
    timeout -s KILL 420 ringfence run --image /tmp/eat.erofs --memory $memory --timeout 400s -- /bin/eat || { echo "FAIL: $memory: $?"; failed=1; }
done
no-leftovers || failed=1
exit $failed
