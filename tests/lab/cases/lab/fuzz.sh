# Garbage to every system call number, from several processes on one and on four CPUs. Again: fuzz SEED ROUNDS PROCESSES CALLS.
#: timeout 400
cat > /tmp/fuzz.c <<'C'
// Garbage to every system call number, from many processes at once. fuzz SEED ROUNDS PROCESSES CALLS.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
enum { MOST = 64 };
struct call { uint64_t seed, count; long number; uint64_t args[6]; };
static struct call *calls; // what each process does now, shared
static uint64_t state;
static uint64_t next(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state * 0x2545f4914f6cdd1d >> 16; }
static uint64_t pick(uint64_t n) { return next() % n; }
static char *memory, *edge, *locked, *nothing;
static long raw(long n, uint64_t *a) {
    long r; register uint64_t r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return r;
}
static const char *const names[] = { "", "/", ".", "/tmp", "/tmp/f", "/tmp/d/e", "/dev/null", "/dev/zero", "/proc/self/mem", "/proc/self/maps", "/proc", "/proc/1/stat",
    "/dev/ptmx", "/dev/pts", "/etc/passwd", "/bin/true", "..", "../../..", "/tmp/link", "user.x", "tmpfs", "proc", "overlay", "lowerdir=/", "/dev/tty", "/sys", "/dev" };
static void fill(char *p, size_t size) {
    switch (pick(5)) {
    case 0: memset(p, 0, size); break;
    case 1: for (size_t i = 0; i + 8 <= size; i += 8) { uint64_t v = next() * next(); memcpy(p + i, &v, 8); } break;
    case 2: for (size_t i = 0; i + 8 <= size; i += 8) { uint64_t v = pick(4); memcpy(p + i, &v, 8); } break;
    case 3: for (size_t i = 0; i + 16 <= size; i += 16) { uint64_t v[2] = { (uint64_t)(pick(2) ? memory : edge), pick(9000) }; memcpy(p + i, v, 16); } break;
    case 4: memset(p, 'a' + pick(26), size); if (pick(2)) p[size - 1] = 0; break;
    }
    const char *name = names[pick(sizeof names / sizeof *names)]; if (pick(2)) strcpy(p, name);
}
static uint64_t pointer(void) {
    switch (pick(10)) {
    case 0: return (uint64_t)locked + pick(4096);
    case 1: return (uint64_t)nothing + pick(4096);
    case 2: return (uint64_t)edge + 4096 - pick(64);
    case 3: return 0xffff800000000000 + (pick(2) ? 0 : next() << 8);
    case 4: { static const uint64_t odd[] = { 0, 1, 8, 0x7ffffffff000, 0x7fffffffefff, 0x800000000000, 0xffffffff80100000, -1ul, -8ul, 0xffff888000100000 }; return odd[pick(10)]; }
    default: { char *p = memory + pick(8) * 4096 + (pick(3) ? 0 : pick(4000)); fill(p, pick(4) ? 64 : 512); return (uint64_t)p; }
    }
}
static uint64_t number(void) {
    static const uint64_t odd[] = { 0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 127, 128, 255, 256, 511, 512, 1023, 1024, 4095, 4096, 4097, 65535, 65536, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff,
        0x100000000, 1ul << 40, 1ul << 47, 1ul << 62, 0x7fffffffffffffff, 0x8000000000000000, -1ul, -2ul, -100ul, -4096ul, 0xffffff9c };
    switch (pick(4)) { case 0: return 1ul << pick(64); case 1: return pick(64); case 2: return next(); default: return odd[pick(sizeof odd / sizeof *odd)]; }
}
static uint64_t argument(void) {
    switch (pick(8)) {
    case 0: case 1: return pointer();
    case 2: return pick(24);                          // descriptors, signals, commands
    case 3: { uint64_t pids[] = { 0, 1, getpid(), -1, getppid(), -getpid(), 99999 }; return pids[pick(7)]; }
    case 4: return next() & 0xfffff & next();         // flags
    case 5: return pick(3) * 4096;
    default: return number();
    }
}
static void prepare(void) {
    memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); munmap(edge + 4096, 4096);
    locked = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    nothing = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int p[2];
    for (int fd = 0; fd < 3; fd++) close(fd);
    open("/dev/null", O_RDWR); open("/dev/null", O_RDWR); open("/dev/null", O_RDWR);
    open("/tmp/f", O_RDWR | O_CREAT, 0644); open("/", O_DIRECTORY); open("/dev/zero", O_RDWR); open("/proc/self/maps", O_RDONLY);
    if (pipe(p)) {} eventfd(1, 0); epoll_create1(0); timerfd_create(CLOCK_MONOTONIC, 0); memfd_create("m", 0);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, p)) {} open("/dev/ptmx", O_RDWR | O_NOCTTY); socket(AF_UNIX, SOCK_DGRAM, 0); socket(AF_INET, SOCK_STREAM, 0); open("/tmp", O_PATH); open("/bin/true", O_RDONLY);
    mkdir("/tmp/d", 0755); symlink("/tmp/link", "/tmp/link");
}
static void again(int signal) { (void)signal; }
static void child(struct call *mine, uint64_t seed, int count) {
    state = seed; prepare();
    mine->seed = seed;
    struct sigaction action = { .sa_handler = again }; sigaction(SIGALRM, &action, NULL);
    pid_t self = getpid();
    for (int i = 0; i < count; i++) {
        static const short risky[] = { SYS_exit, SYS_exit_group, SYS_pause, SYS_rt_sigsuspend, SYS_vfork, SYS_fork, SYS_rt_sigreturn };
        long n = pick(64) ? (long)pick(471) : (long)number();
        for (unsigned r = 0; r < sizeof risky / sizeof *risky; r++) if (n == risky[r] && pick(8)) n = pick(335);
        uint64_t args[6]; for (int a = 0; a < 6; a++) args[a] = argument();
        mine->count = i; mine->number = n; memcpy(mine->args, args, sizeof args);
        struct itimerval timer = { .it_value = { 0, 20000 }, .it_interval = { 0, 20000 } }; setitimer(ITIMER_REAL, &timer, NULL);
        raw(n, args);
        if ((pid_t)syscall(SYS_getpid) != self) syscall(SYS_exit_group, 0);
    }
    _exit(0);
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1; int rounds = argc > 2 ? atoi(argv[2]) : 4, processes = argc > 3 ? atoi(argv[3]) : 4, count = argc > 4 ? atoi(argv[4]) : 2000;
    calls = mmap(NULL, MOST * sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    signal(SIGTERM, SIG_IGN); signal(SIGHUP, SIG_IGN);
    unsigned long made = 0, killed = 0, died = 0; int out = dup(1);
    for (int round = 0; round < rounds; round++) {
        pid_t pids[MOST]; int left = 0;
        for (int p = 0; p < processes; p++) {
            pids[p] = fork();
            if (pids[p] == 0) { setsid(); child(&calls[p], seed * 1000003 + round * MOST + p + 1, count); }
            if (pids[p] > 0) left++; else dprintf(out, "fork: %s\n", strerror(errno));
        }
        double start = now(); int phase = 0;
        while (left > 0) {
            int status; pid_t pid = waitpid(-1, &status, WNOHANG);
            if (pid > 0) { for (int p = 0; p < processes; p++) if (pids[p] == pid) { left--; pids[p] = -1; made += calls[p].count; if (WIFSIGNALED(status)) { died++; if (getenv("FUZZ_V")) dprintf(out, "%d died of %d in %ld\n", pid, WTERMSIG(status), calls[p].number); } } continue; }
            if (pid < 0 && errno != EINTR) { dprintf(out, "waitpid: %s\n", strerror(errno)); break; }
            usleep(2000); kill(-1, SIGCONT);
            double since = now() - start;
            if (phase == 0 && since > 6) { phase = 1; for (int p = 0; p < processes; p++) if (pids[p] > 0) { killed++; if (getenv("FUZZ_V")) dprintf(out, "killing %d in %ld (%lx %lx %lx %lx)\n", pids[p], calls[p].number, calls[p].args[0], calls[p].args[1], calls[p].args[2], calls[p].args[3]); kill(pids[p], SIGKILL); } }
            if (phase == 1 && since > 40) {
                for (int p = 0; p < processes; p++) if (pids[p] > 0) dprintf(out, "HANG: process %d, seed %lu, call %lu: %ld(%lx, %lx, %lx, %lx, %lx, %lx)\n", pids[p], calls[p].seed, calls[p].count,
                    calls[p].number, calls[p].args[0], calls[p].args[1], calls[p].args[2], calls[p].args[3], calls[p].args[4], calls[p].args[5]);
                return 1;
            }
        }
        kill(-1, SIGKILL);
        for (double start = now(); waitpid(-1, NULL, WNOHANG) >= 0 || errno == EINTR;) { if (now() - start > 20) { dprintf(out, "HANG: children that stay after SIGKILL\n"); return 1; } usleep(1000); }
    }
    if (getenv("FUZZ_V")) dprintf(out, "%lu calls, %lu killed, %lu died\n", made, killed, died);
    dprintf(out, "done\n");
    return 0;
}
C
mkdir -p /tmp/img/bin /tmp/img/tmp /tmp/img/dev /tmp/img/proc /tmp/img/sys /tmp/img/etc
printf 'int main(){return 0;}' > /tmp/true.c; gcc -O1 -static -o /tmp/img/bin/true /tmp/true.c
gcc -O1 -w -static -o /tmp/img/bin/fuzz /tmp/fuzz.c && ringfence image build /tmp/img -o /tmp/fuzz.erofs || exit 1
failed=0
for seed in 1 4 5 9 $RANDOM $RANDOM; do
    for cpus in 1 4; do
        out=$(timeout -s KILL 110 ringfence run --image /tmp/fuzz.erofs --cpus $cpus --timeout 100s -- /bin/fuzz $seed 3 8 1000 2>&1 | tr -d '\0'; exit "${PIPESTATUS[0]}"); code=$?
        [ $code = 0 ] && [[ "$out" == *done* ]] || { echo "FAIL: seed $seed on $cpus CPUs ends with $code: $out"; failed=1; }
    done
done
no-leftovers || failed=1
exit $failed
