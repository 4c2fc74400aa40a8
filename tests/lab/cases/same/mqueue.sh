# POSIX message queues: opening, attributes, priorities, waiting, notification, limits, the file system.
#: timeout 60
cat > /tmp/mq.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void say(const char *what, long n) { printf("%s: %ld%s%s\n", what, n, n < 0 ? " " : "", n < 0 ? strerror(errno) : ""); }
static void ok(const char *what, long n) { printf("%s: %s\n", what, n < 0 ? strerror(errno) : "ok"); }
#define CHILD(...) do { fflush(stdout); pid_t c_ = fork(); if (!c_) { __VA_ARGS__; fflush(stdout); _exit(0); } int st_; waitpid(c_, &st_, 0); } while (0)
static volatile int got; static void on(int s, siginfo_t *i, void *c) { got = i->si_code * 1000 - i->si_value.sival_int; }
int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0); char b[9000]; unsigned p; struct mq_attr a = {0, 3, 100}, o; struct stat st; umask(022);
    mkdir("/tmp/mq", 0755); ok("mount", mount("none", "/tmp/mq", "mqueue", 0, 0));
    ok("missing", mq_open("/q", O_RDWR)); mqd_t q = mq_open("/q", O_RDWR | O_CREAT, 0622, &a); ok("create", q); ok("exclusive", mq_open("/q", O_RDWR | O_CREAT | O_EXCL, 0600, 0)); ok("slash", syscall(SYS_mq_open, "/q", O_RDWR, 0, 0)); ok("empty", syscall(SYS_mq_open, "", O_RDWR, 0, 0)); ok("dots", syscall(SYS_mq_open, "..", O_RDWR, 0, 0)); memset(b, 'x', 300); b[300] = 0; ok("long", syscall(SYS_mq_open, b, O_RDWR | O_CREAT, 0600, 0)); ok("pointer", syscall(SYS_mq_open, 8, O_RDWR, 0, 0)); ok("attr pointer", syscall(SYS_mq_open, "q", O_RDWR, 0, 8)); ok("both modes", syscall(SYS_mq_open, "q", 3, 0, 0));
    printf("cloexec %d\n", fcntl(q, F_GETFD)); mq_getattr(q, &o); printf("%ld %ld %ld %ld\n", o.mq_flags, o.mq_maxmsg, o.mq_msgsize, o.mq_curmsgs); fstat(q, &st); printf("mode %o size %ld\n", st.st_mode, (long)st.st_size);
    say("send", mq_send(q, "low", 4, 1)); mq_send(q, "high", 5, 9); mq_send(q, "low2", 5, 1); struct pollfd pf = {q, POLLIN | POLLOUT}; poll(&pf, 1, 0); printf("poll %x\n", pf.revents); int n = read(q, b, 100); printf("%.*s", n, b);
    o.mq_flags = O_NONBLOCK; say("setattr", mq_setattr(q, &o, 0)); say("full", mq_send(q, "x", 1, 0)); o.mq_flags = 5; say("bad flags", mq_setattr(q, &o, 0)); say("too long", mq_send(q, b, 101, 0)); say("priority", mq_send(q, b, 1, 32768)); say("small buffer", mq_receive(q, b, 99, 0)); for (int i = 0; i < 3; i++) { n = mq_receive(q, b, 100, &p); printf("%d %u %s\n", n, p, b); } say("empty", mq_receive(q, b, 100, 0)); poll(&pf, 1, 0); printf("poll %x\n", pf.revents); say("pointer", mq_send(q, (void *)8, 4, 0)); say("not a queue", mq_send(1, "x", 1, 0)); say("bad fd", mq_receive(99, b, 100, 0));
    o.mq_flags = 0; mq_setattr(q, &o, 0); struct timespec ts; clock_gettime(CLOCK_REALTIME, &ts); ts.tv_nsec += 20000000; if (ts.tv_nsec > 999999999) { ts.tv_sec++; ts.tv_nsec -= 1000000000; } say("time out", mq_timedreceive(q, b, 100, 0, &ts)); ts.tv_nsec = -1; say("bad time", mq_timedreceive(q, b, 100, 0, &ts)); ts = (struct timespec){0, 0}; say("past", mq_timedreceive(q, b, 100, 0, &ts));
    fflush(stdout); pid_t c = fork(); if (!c) { n = mq_receive(q, b, 100, &p); printf("child got %.*s %u\n", n, b, p); _exit(0); } usleep(50000); mq_send(q, "wake", 4, 7); waitpid(c, 0, 0); for (int i = 0; i < 3; i++) mq_send(q, "f", 1, 0); c = fork(); if (!c) { say("child sends", mq_send(q, "late", 4, 0)); _exit(0); } usleep(50000); mq_receive(q, b, 100, 0); waitpid(c, 0, 0); mq_getattr(q, &o); printf("now %ld\n", o.mq_curmsgs); while (o.mq_curmsgs--) mq_receive(q, b, 100, 0);
    struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO}; sigaction(SIGUSR1, &sa, 0); struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42}; say("notify", mq_notify(q, &ev)); n = pread(q, b, 100, 0); b[n] = 0; printf("%.30s\n", b); CHILD(say("busy", mq_notify(q, &ev)); say("not mine", mq_notify(q, 0))); mq_send(q, "n", 1, 0); printf("notified %d\n", got); got = 0; mq_send(q, "n", 1, 0); printf("once %d\n", got); say("notify full", mq_notify(q, &ev)); mq_receive(q, b, 100, 0); mq_send(q, "n", 1, 0); printf("not empty %d\n", got); mq_receive(q, b, 100, 0); mq_receive(q, b, 100, 0); mq_send(q, "n", 1, 0); printf("from empty %d\n", got); say("none", mq_notify(q, (ev.sigev_notify = SIGEV_NONE, &ev))); say("off", mq_notify(q, 0)); ev.sigev_notify = 99; say("bad", mq_notify(q, &ev)); ev.sigev_notify = SIGEV_SIGNAL; ev.sigev_signo = 99; say("bad signal", mq_notify(q, &ev)); CHILD(ev.sigev_signo = SIGUSR1; say("child", mq_notify(q, &ev))); ev.sigev_signo = SIGUSR1; say("after its end", mq_notify(q, &ev)); mq_receive(q, b, 100, 0);
    stat("/tmp/mq/q", &st); printf("file %o\n", st.st_mode); system("ls /tmp/mq; ls -ld /tmp/mq | cut -c1-10"); ok("file made", open("/tmp/mq/r", O_CREAT | O_RDWR, 0600)); mqd_t r = mq_open("/r", O_RDONLY); mq_getattr(r, &o); printf("%ld %ld\n", o.mq_maxmsg, o.mq_msgsize); say("read only", mq_send(r, "x", 1, 0)); say("unlink file", unlink("/tmp/mq/r")); say("unlink", mq_unlink("/r")); say("mkdir", mkdir("/tmp/mq/d", 0700)); say("unlink q", mq_unlink("/q")); say("alive", mq_send(q, "x", 1, 0)); ok("new q", mq_open("/q", O_RDWR | O_CREAT, 0600, 0)); mq_unlink("/q");
    a = (struct mq_attr){0, 0, 10}; ok("no messages", mq_open("/z", O_RDWR | O_CREAT, 0600, &a)); a = (struct mq_attr){0, 70000, 10}; ok("too many", mq_open("/z", O_RDWR | O_CREAT, 0600, &a)); a = (struct mq_attr){0, 1000, 1000}; ok("over the limit", mq_open("/z", O_RDWR | O_CREAT, 0600, &a)); struct rlimit rl = {8 << 20, 8 << 20}; setrlimit(RLIMIT_MSGQUEUE, &rl); ok("raised", mq_open("/z", O_RDWR | O_CREAT, 0600, &a)); CHILD(setuid(1000); a = (struct mq_attr){0, 11, 10}; ok("user", mq_open("/u", O_RDWR | O_CREAT, 0600, &a)); a.mq_maxmsg = 10; ok("user", mq_open("/u", O_RDWR | O_CREAT, 0, &a)); ok("again", mq_open("/u", O_RDWR)); ok("others", mq_open("/z", O_RDONLY)); ok("removes others", mq_unlink("/z")); ok("own", mq_unlink("/u")));
    system("cd /proc/sys/fs/mqueue; for f in *; do echo $f $(cat $f); done; mount | grep -c mqueue > /dev/null");
    return 0;
}
C
gcc -w -O1 -o /tmp/mqb /tmp/mq.c -lrt && /tmp/mqb
