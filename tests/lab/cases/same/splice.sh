# splice, tee and vmsplice: what moves, what stays, and each refusal.
#: timeout 60
cat > /tmp/splice.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/eventfd.h>
#include <unistd.h>
static void say(const char *what, long n) { printf("%s: %ld%s%s\n", what, n, n < 0 ? " " : "", n < 0 ? strerror(errno) : ""); fflush(stdout); }
static char buf[1 << 20] __attribute__((aligned(4096)));
static void show(const char *what, int fd) { long n = read(fd, buf, sizeof buf); printf("%s: %ld <%.*s>\n", what, n, n > 0 && n < 60 ? (int)n : 0, buf); }
int main(void) {
    int a[2], b[2], s[2]; loff_t off;
    signal(SIGPIPE, SIG_IGN);
    pipe(a); pipe2(b, O_NONBLOCK);
    int f = open("/tmp/splice.data", O_RDWR | O_CREAT | O_TRUNC, 0600);
    write(f, "hello splice world", 18);
    off = 6; say("file to pipe", splice(f, &off, a[1], 0, 6, 0)); printf("offset %ld\n", (long)off);
    say("tee", tee(a[0], b[1], 100, 0));
    say("pipe to pipe", splice(a[0], 0, b[1], 0, 3, 0));
    show("second pipe", b[0]);
    show("first pipe", a[0]);
    lseek(f, 0, SEEK_SET);
    say("from position", splice(f, 0, a[1], 0, 5, 0)); printf("position %ld\n", (long)lseek(f, 0, SEEK_CUR));
    off = 100; say("pipe to file", splice(a[0], 0, f, &off, 100, 0)); printf("offset %ld size %ld\n", (long)off, (long)lseek(f, 0, SEEK_END));
    say("beyond the end", splice(f, &off, a[1], 0, 5, 0));
    say("empty, nonblocking", splice(b[0], 0, f, 0, 5, 0));
    say("empty, flag", splice(a[0], 0, f, 0, 5, SPLICE_F_NONBLOCK));
    say("same pipe", splice(a[0], 0, a[1], 0, 5, SPLICE_F_NONBLOCK));
    say("no pipe", splice(f, 0, f, 0, 5, 0));
    say("pipe offset", splice(a[0], &off, f, 0, 5, 0));
    say("two pipes, offset", splice(a[0], 0, b[1], &off, 5, 0));
    say("flags", splice(f, 0, a[1], 0, 5, 0x10));
    say("length 0", splice(-1, 0, -1, 0, 0, 0x10));
    say("bad fd", splice(-1, 0, a[1], 0, 5, 0));
    say("wrong direction", splice(a[1], 0, f, 0, 5, 0));
    say("bad pointer", splice(f, (loff_t *)1, a[1], 0, 5, 0));
    off = -1; say("negative offset", splice(f, &off, a[1], 0, 5, 0));
    int e = eventfd(1, 0); say("eventfd", splice(e, 0, a[1], 0, 8, 0));
    int d = open("/tmp", O_RDONLY); say("directory", splice(d, 0, a[1], 0, 8, 0));
    int ap = open("/tmp/splice.data", O_WRONLY | O_APPEND); write(a[1], "x", 1); say("append", splice(a[0], 0, ap, 0, 1, 0));
    show("still there", a[0]);
    say("tee no pipe", tee(f, a[1], 4, 0)); say("tee same", tee(a[0], a[1], 4, SPLICE_F_NONBLOCK)); say("tee flags", tee(a[0], b[1], 0, 99)); say("tee empty", tee(b[0], a[1], 9, SPLICE_F_NONBLOCK));
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    write(s[0], "from a socket", 13); say("socket to pipe", splice(s[1], 0, a[1], 0, 100, 0)); say("pipe to socket", splice(a[0], 0, s[1], 0, 100, 0)); show("back", s[0]);
    struct iovec v[2] = {{"vm", 2}, {"splice", 6}};
    say("vmsplice", vmsplice(a[1], v, 2, 0));
    char x[3], y[20]; struct iovec r[2] = {{x, 3}, {y, 20}};
    say("vmsplice out", vmsplice(a[0], r, 2, 0)); printf("<%.3s><%.5s>\n", x, y);
    say("vmsplice no pipe", vmsplice(f, v, 2, 0)); say("vmsplice flags", vmsplice(a[1], v, 2, 16)); say("vmsplice count", vmsplice(a[1], v, 1025, 0));
    say("vmsplice empty", vmsplice(b[0], r, 1, SPLICE_F_NONBLOCK));
    struct iovec bad = {(void *)1, 4}; say("vmsplice bad", vmsplice(a[1], &bad, 1, 0));
    // A pipe that fills, and one without the other side.
    memset(buf, 'z', sizeof buf); struct iovec big = {buf, sizeof buf};
    say("vmsplice fills", vmsplice(a[1], &big, 1, 0)); say("full", vmsplice(a[1], &big, 1, SPLICE_F_NONBLOCK)); say("tee full to full", tee(a[0], b[1], 1 << 20, 0)); say("again", tee(a[0], b[1], 1, 0));
    ftruncate(f, 0); lseek(f, 0, SEEK_SET); say("drain", splice(a[0], 0, f, 0, 1 << 20, 0)); printf("size %ld\n", (long)lseek(f, 0, SEEK_END));
    fcntl(a[1], F_SETPIPE_SZ, 1 << 20); off = 0; say("large pipe", splice(f, &off, a[1], 0, 1 << 20, 0));
    close(b[0]); say("no reader", splice(a[0], 0, b[1], 0, 10, 0)); say("no reader file", splice(f, &off, b[1], 0, 10, 0)); say("no reader vm", vmsplice(b[1], v, 1, 0));
    close(a[1]); say("drain", splice(a[0], 0, f, 0, 1 << 20, 0)); say("end", splice(a[0], 0, f, 0, 1, 0)); say("end tee", tee(a[0], b[1], 1, 0));
    // A child waits for bytes and passes them on.
    pipe(a); pipe(b);
    if (!fork()) { close(a[1]); close(b[0]); long n, t = 0; while ((n = splice(a[0], 0, b[1], 0, 1 << 16, SPLICE_F_MOVE)) > 0) t += n; _exit(t == 300000 ? 0 : 1); }
    close(a[0]); close(b[1]);
    if (!fork()) { close(b[0]); for (int i = 0; i < 300; i++) write(a[1], buf, 1000); _exit(0); }
    close(a[1]); long t = 0, n; while ((n = read(b[0], buf, 7777)) > 0) t += n;
    int st; wait(&st); printf("%d ", st); wait(&st); printf("%d moved %ld\n", st, t);
    return 0;
}
C
gcc -w -O1 -o /tmp/splice /tmp/splice.c && /tmp/splice
