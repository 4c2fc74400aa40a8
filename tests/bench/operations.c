// The basic operations of a kernel, each in a loop, timed from inside: `operations NAME LOOPS REPEATS` prints the
// nanoseconds of one operation for each repeat. `cargo xtask measure` runs it natively and in a sandbox; in
// the lab that counts instructions a nanosecond is an instruction.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mark.h"

static long loops;
static int pipe_fds[2], back_fds[2], epoll_fd, file_fd, zero_fd, null_fd, socket_fds[2];
static char buffer[65536];
static volatile int handled;
static int word;

static void die(const char *what) {
    perror(what);
    exit(1);
}
#define CHECK(call) \
    do { \
        if ((long)(call) < 0) die(#call); \
    } while (0)

static void nothing(void) {}

static void reap(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0));
    if (status) {
        fprintf(stderr, "operations: a child failed (%x)\n", status);
        exit(1);
    }
}

static void do_empty(void) {
    for (long i = 0; i < loops; i++) __asm__ volatile("");
}
static void do_getpid(void) {
    for (long i = 0; i < loops; i++) syscall(SYS_getpid);
}
static void do_clock(void) {
    struct timespec t;
    for (long i = 0; i < loops; i++) clock_gettime(CLOCK_MONOTONIC, &t);
}
static void make_pipes(void) {
    CHECK(pipe(pipe_fds));
    CHECK(pipe(back_fds));
}
static void do_pipe(void) { // one write and one read of a byte, no switch
    char c = 0;
    for (long i = 0; i < loops; i++) {
        CHECK(write(pipe_fds[1], &c, 1));
        CHECK(read(pipe_fds[0], &c, 1));
    }
}
static void do_pipe_switch(void) { // a byte to another process and back: two switches
    char c = 0;
    pid_t child = fork();
    CHECK(child);
    if (child == 0) {
        for (long i = 0; i < loops; i++) {
            CHECK(read(pipe_fds[0], &c, 1));
            CHECK(write(back_fds[1], &c, 1));
        }
        _exit(0);
    }
    for (long i = 0; i < loops; i++) {
        CHECK(write(pipe_fds[1], &c, 1));
        CHECK(read(back_fds[0], &c, 1));
    }
    reap(child);
}
static void do_open(void) {
    for (long i = 0; i < loops; i++) {
        int fd = open("/etc/passwd", O_RDONLY);
        CHECK(fd);
        close(fd);
    }
}
static void do_stat(void) {
    struct stat s;
    for (long i = 0; i < loops; i++) CHECK(stat("/etc/passwd", &s));
}
static void do_mmap(void) { // map, touch and unmap one page
    for (long i = 0; i < loops; i++) {
        char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) die("mmap");
        *p = 1;
        munmap(p, 4096);
    }
}
static void do_fault(void) { // first touch of a page of a big anonymous mapping
    size_t size = loops * 4096UL;
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    madvise(p, size, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < size; i += 4096) p[i] = 1;
    munmap(p, size);
}
static void do_fork(void) {
    for (long i = 0; i < loops; i++) {
        pid_t child = fork();
        CHECK(child);
        if (child == 0) _exit(0);
        reap(child);
    }
}
static void do_exec(void) { // vfork, exec of a static program that ends at once, wait
    for (long i = 0; i < loops; i++) {
        pid_t child = vfork();
        CHECK(child);
        if (child == 0) {
            execl("/proc/self/exe", "operations", NULL);
            _exit(127);
        }
        reap(child);
    }
}
static void do_exec_true(void) { // the same with Debian's /bin/true and its dynamic linker
    for (long i = 0; i < loops; i++) {
        pid_t child = vfork();
        CHECK(child);
        if (child == 0) {
            execl("/bin/true", "true", NULL);
            _exit(127);
        }
        reap(child);
    }
}
static long futex(int *at, int op, int value) { return syscall(SYS_futex, at, op, value, NULL, NULL, 0); }
static void *futex_partner(void *unused) {
    (void)unused;
    for (long i = 0; i < loops; i++) {
        while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) != 1) futex(&word, FUTEX_WAIT_PRIVATE, 0);
        __atomic_store_n(&word, 0, __ATOMIC_RELEASE);
        futex(&word, FUTEX_WAKE_PRIVATE, 1);
    }
    return NULL;
}
static void do_futex(void) { // wake the other thread and wait until it has woken us
    pthread_t thread;
    word = 0;
    if (pthread_create(&thread, NULL, futex_partner, NULL)) die("pthread_create");
    for (long i = 0; i < loops; i++) {
        __atomic_store_n(&word, 1, __ATOMIC_RELEASE);
        futex(&word, FUTEX_WAKE_PRIVATE, 1);
        while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) != 0) futex(&word, FUTEX_WAIT_PRIVATE, 1);
    }
    pthread_join(thread, NULL);
}
static void *end(void *unused) { return unused; }
static void do_thread(void) {
    for (long i = 0; i < loops; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, end, NULL)) die("pthread_create");
        pthread_join(thread, NULL);
    }
}
static void on_signal(int number) { handled += number != 0; }
static void make_handler(void) {
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR1, &action, NULL));
}
static void do_signal(void) {
    int before = handled;
    for (long i = 0; i < loops; i++) CHECK(kill(getpid(), SIGUSR1));
    if (handled - before != loops) die("signals were lost");
}
static void make_epoll(void) {
    struct epoll_event event = {.events = EPOLLIN};
    CHECK(epoll_fd = epoll_create1(0));
    CHECK(event.data.fd = eventfd(1, 0));
    CHECK(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event.data.fd, &event));
}
static void do_epoll(void) {
    struct epoll_event event;
    for (long i = 0; i < loops; i++)
        if (epoll_wait(epoll_fd, &event, 1, -1) != 1) die("epoll_wait");
}

// Calls on files.
static void make_files(void) {
    CHECK(zero_fd = open("/dev/zero", O_RDONLY));
    CHECK(null_fd = open("/dev/null", O_WRONLY));
    CHECK(file_fd = open("/tmp/operations.file", O_RDWR | O_CREAT | O_TRUNC, 0600));
    CHECK(write(file_fd, buffer, sizeof buffer));
    CHECK(unlink("/tmp/operations.file"));
}
static void do_read_zero(void) { // lmbench's lat_syscall read
    for (long i = 0; i < loops; i++) CHECK(read(zero_fd, buffer, 1));
}
static void do_write_null(void) { // lmbench's lat_syscall write
    for (long i = 0; i < loops; i++) CHECK(write(null_fd, buffer, 1));
}
static void do_fstat(void) {
    struct stat s;
    for (long i = 0; i < loops; i++) CHECK(fstat(file_fd, &s));
}
static void do_read_4k(void) { // from a tmpfs
    for (long i = 0; i < loops; i++) CHECK(pread(file_fd, buffer, 4096, 0));
}
static void do_write_4k(void) {
    for (long i = 0; i < loops; i++) CHECK(pwrite(file_fd, buffer, 4096, 0));
}
static void do_create(void) { // an empty file, and unlink it
    for (long i = 0; i < loops; i++) {
        int fd = open("/tmp/operations.new", O_WRONLY | O_CREAT | O_EXCL, 0600);
        CHECK(fd);
        close(fd);
        CHECK(unlink("/tmp/operations.new"));
    }
}
static void do_readdir(void) { // all names of /usr/bin
    for (long i = 0; i < loops; i++) {
        DIR *dir = opendir("/usr/bin");
        if (!dir) die("opendir");
        while (readdir(dir)) {}
        closedir(dir);
    }
}
static void do_dup(void) {
    for (long i = 0; i < loops; i++) {
        int fd = dup(file_fd);
        CHECK(fd);
        close(fd);
    }
}

// Sockets. A byte there and back, in one process unless it says otherwise.
static void make_unix(void) { CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, socket_fds)); }
static void connect_loopback(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(listener);
    CHECK(bind(listener, (void *)&at, len));
    CHECK(listen(listener, 1));
    CHECK(getsockname(listener, (void *)&at, &len));
    CHECK(socket_fds[0] = socket(AF_INET, SOCK_STREAM, 0));
    CHECK(connect(socket_fds[0], (void *)&at, len));
    CHECK(socket_fds[1] = accept(listener, NULL, NULL));
    close(listener);
    for (int i = 0; i < 2; i++) CHECK(setsockopt(socket_fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
}
static void make_udp(void) {
    struct sockaddr_in at[2] = {0};
    socklen_t len = sizeof at[0];
    for (int i = 0; i < 2; i++) {
        at[i].sin_family = AF_INET, at[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        CHECK(socket_fds[i] = socket(AF_INET, SOCK_DGRAM, 0));
        CHECK(bind(socket_fds[i], (void *)&at[i], len));
        CHECK(getsockname(socket_fds[i], (void *)&at[i], &len));
    }
    for (int i = 0; i < 2; i++) CHECK(connect(socket_fds[i], (void *)&at[!i], len));
}
static void do_socket(void) {
    char c = 0;
    for (long i = 0; i < loops; i++) {
        CHECK(send(socket_fds[0], &c, 1, 0));
        CHECK(recv(socket_fds[1], &c, 1, 0));
        CHECK(send(socket_fds[1], &c, 1, 0));
        CHECK(recv(socket_fds[0], &c, 1, 0));
    }
}
static void do_socket_switch(void) { // the same with another process: two switches
    char c = 0;
    pid_t child = fork();
    CHECK(child);
    if (child == 0) {
        for (long i = 0; i < loops; i++) {
            CHECK(recv(socket_fds[1], &c, 1, 0));
            CHECK(send(socket_fds[1], &c, 1, 0));
        }
        _exit(0);
    }
    for (long i = 0; i < loops; i++) {
        CHECK(send(socket_fds[0], &c, 1, 0));
        CHECK(recv(socket_fds[0], &c, 1, 0));
    }
    reap(child);
}
static void do_socket_64k(void) { // 64 KiB one way
    for (long i = 0; i < loops; i++) {
        CHECK(send(socket_fds[0], buffer, sizeof buffer, 0));
        for (size_t got = 0; got < sizeof buffer;) {
            long n = recv(socket_fds[1], buffer, sizeof buffer, 0);
            CHECK(n);
            got += n;
        }
    }
}
static void make_sendfile(void) {
    make_files();
    connect_loopback();
}
static void do_sendfile(void) { // 64 KiB of a file through a socket
    for (long i = 0; i < loops; i++) {
        off_t at = 0;
        CHECK(sendfile(socket_fds[0], file_fd, &at, sizeof buffer));
        for (long got = 0; got < at;) {
            long n = recv(socket_fds[1], buffer, sizeof buffer, 0);
            CHECK(n);
            got += n;
        }
    }
}
static void do_connect(void) { // connect, accept and close over the loopback
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    struct linger linger = {1, 0}; // no TIME_WAIT
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(listener);
    CHECK(bind(listener, (void *)&at, len));
    CHECK(listen(listener, 1));
    CHECK(getsockname(listener, (void *)&at, &len));
    for (long i = 0; i < loops; i++) {
        int client = socket(AF_INET, SOCK_STREAM, 0), server;
        CHECK(client);
        CHECK(setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
        CHECK(connect(client, (void *)&at, len));
        CHECK(server = accept(listener, NULL, NULL));
        close(client);
        close(server);
    }
    close(listener);
}

// Waiting for one of a hundred.
static int many[100];
static void make_many(void) {
    for (int i = 0; i < 100; i++) CHECK(many[i] = eventfd(i == 99, 0));
}
static void do_select(void) {
    for (long i = 0; i < loops; i++) {
        fd_set set;
        FD_ZERO(&set);
        for (int j = 0; j < 100; j++) FD_SET(many[j], &set);
        if (select(many[99] + 1, &set, NULL, NULL, NULL) != 1) die("select");
    }
}

// Scheduling.
static void do_yield(void) {
    for (long i = 0; i < loops; i++) CHECK(sched_yield());
}
// A byte through a ring of processes (lmbench's lat_ctx); one operation is one step.
static void ring(int processes) {
    int pipes[16][2];
    pid_t children[16];
    char c = 0;
    for (int i = 0; i < processes; i++) CHECK(pipe(pipes[i]));
    for (int i = 1; i < processes; i++) {
        CHECK(children[i] = fork());
        if (children[i]) continue;
        for (long turn = 0; turn < loops / processes; turn++) {
            CHECK(read(pipes[i - 1][0], &c, 1));
            CHECK(write(pipes[i][1], &c, 1));
        }
        _exit(0);
    }
    for (long turn = 0; turn < loops / processes; turn++) {
        CHECK(write(pipes[0][1], &c, 1));
        CHECK(read(pipes[processes - 1][0], &c, 1));
    }
    for (int i = 1; i < processes; i++) reap(children[i]);
    for (int i = 0; i < processes; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
}
static void do_switch_8(void) { ring(8); }
static void do_switch_16(void) { ring(16); }
static void do_shell(void) { // vfork, exec of a shell that runs a program, wait
    for (long i = 0; i < loops; i++) {
        pid_t child = vfork();
        CHECK(child);
        if (child == 0) {
            execl("/bin/sh", "sh", "-c", "/bin/true; exit", NULL);
            _exit(127);
        }
        reap(child);
    }
}

static const struct {
    const char *name;
    void (*prepare)(void), (*run)(void);
} OPERATIONS[] = {
    {"empty", nothing, do_empty},
    {"getpid", nothing, do_getpid},
    {"clock", nothing, do_clock},
    {"pipe", make_pipes, do_pipe},
    {"pipe-switch", make_pipes, do_pipe_switch},
    {"open", nothing, do_open},
    {"stat", nothing, do_stat},
    {"mmap", nothing, do_mmap},
    {"fault", nothing, do_fault},
    {"fork", nothing, do_fork},
    {"exec", nothing, do_exec},
    {"exec-true", nothing, do_exec_true},
    {"futex", nothing, do_futex},
    {"thread", nothing, do_thread},
    {"signal", make_handler, do_signal},
    {"epoll", make_epoll, do_epoll},
    {"read-zero", make_files, do_read_zero},
    {"write-null", make_files, do_write_null},
    {"fstat", make_files, do_fstat},
    {"read-4k", make_files, do_read_4k},
    {"write-4k", make_files, do_write_4k},
    {"create", nothing, do_create},
    {"readdir", nothing, do_readdir},
    {"dup", make_files, do_dup},
    {"unix", make_unix, do_socket},
    {"unix-switch", make_unix, do_socket_switch},
    {"unix-64k", make_unix, do_socket_64k},
    {"tcp", connect_loopback, do_socket},
    {"tcp-switch", connect_loopback, do_socket_switch},
    {"tcp-64k", connect_loopback, do_socket_64k},
    {"tcp-connect", nothing, do_connect},
    {"udp", make_udp, do_socket},
    {"sendfile", make_sendfile, do_sendfile},
    {"select-100", make_many, do_select},
    {"yield", nothing, do_yield},
    {"switch-8", nothing, do_switch_8},
    {"switch-16", nothing, do_switch_16},
    {"shell", nothing, do_shell},
};

// What each operation is measured with, in `operations all`.
static long usual_loops(const char *name) {
    static const char *const SLOW[] = {"fork", "exec", "exec-true", "thread", "shell", "readdir"}; // many thousands of instructions each
    for (size_t i = 0; i < sizeof SLOW / sizeof *SLOW; i++)
        if (!strcmp(name, SLOW[i])) return 30;
    if (!strcmp(name, "getpid")) return 100000;
    return 1000;
}

static void measure(size_t which, int repeats) {
    OPERATIONS[which].prepare();
    OPERATIONS[which].run(); // caches, dentries, lazily made things
    printf("%s", OPERATIONS[which].name);
    for (int i = 0; i < repeats; i++) {
        struct timespec a, b;
        MARK_BEGIN();
        clock_gettime(CLOCK_MONOTONIC, &a);
        OPERATIONS[which].run();
        clock_gettime(CLOCK_MONOTONIC, &b);
        MARK_END();
        double ns = (b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec);
        printf(" %.1f", ns / loops);
    }
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc < 2) return 0; // what `exec` runs
    int repeats = argc > 3 ? atoi(argv[3]) : 5, found = 0;
    for (size_t i = 0; i < sizeof OPERATIONS / sizeof *OPERATIONS; i++) {
        int all = !strcmp(argv[1], "all");
        if (!all && strcmp(argv[1], OPERATIONS[i].name)) continue;
        loops = argc > 2 && atol(argv[2]) > 0 ? atol(argv[2]) : usual_loops(OPERATIONS[i].name);
        measure(i, repeats);
        found = 1;
    }
    if (!found) fprintf(stderr, "operations: no operation %s\n", argv[1]);
    return !found;
}
