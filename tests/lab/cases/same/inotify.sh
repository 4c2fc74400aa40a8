# inotify: every event, its order, cookies, flags and limits.
#: timeout 60
cat > /tmp/ino.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
static int fd; static unsigned last_cookie;
static const char *names[] = {"ACCESS","MODIFY","ATTRIB","CLOSE_WRITE","CLOSE_NOWRITE","OPEN","MOVED_FROM","MOVED_TO","CREATE","DELETE","DELETE_SELF","MOVE_SELF","?12","UNMOUNT","Q_OVERFLOW","IGNORED"};
static void events(const char *what) {
    static char buf[1 << 20] __attribute__((aligned(8)));
    int waiting = -1; ioctl(fd, FIONREAD, &waiting);
    long n = read(fd, buf, sizeof buf);
    printf("%s:%s\n", what, n < 0 ? strerror(errno) : "");
    if (n >= 0 && waiting != n) printf("  FIONREAD %d read %ld\n", waiting, n);
    for (char *p = buf; p < buf + n;) {
        struct inotify_event *e = (void *)p; printf("  %d", e->wd);
        for (int i = 0; i < 16; i++) if (e->mask >> i & 1) printf(" %s", names[i]);
        if (e->mask & IN_ISDIR) printf(" ISDIR");
        if (e->cookie) { printf(" cookie %s", e->cookie == last_cookie ? "same" : "new"); last_cookie = e->cookie; }
        if (e->len) printf(" %u '%s'", e->len, e->name);
        printf("\n"); p += sizeof *e + e->len;
    }
    fflush(stdout);
}
static void say(const char *what, long n) { printf("%s: %ld%s%s\n", what, n, n < 0 ? " " : "", n < 0 ? strerror(errno) : ""); }
static void touch(const char *p) { close(open(p, O_WRONLY | O_CREAT, 0644)); }
int main(void) {
    char c[64]; int f;
    mkdir("/tmp/ino", 0755); mount("none", "/tmp/ino", "tmpfs", 0, ""); chdir("/tmp/ino"); mkdir("d", 0755); mkdir("e", 0755); touch("d/f");
    say("bad flags", inotify_init1(1)); fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    say("bad fd", inotify_add_watch(-1, "d", IN_OPEN)); say("no mask", inotify_add_watch(fd, "d", 0)); say("missing", inotify_add_watch(fd, "x", IN_OPEN)); say("not inotify", inotify_add_watch(0, "d", IN_OPEN));
    say("only dir", inotify_add_watch(fd, "d/f", IN_OPEN | IN_ONLYDIR)); say("both", inotify_add_watch(fd, "d", IN_OPEN | IN_MASK_ADD | IN_MASK_CREATE)); say("pointer", inotify_add_watch(fd, (char *)1, IN_OPEN));
    say("d", inotify_add_watch(fd, "d", IN_ALL_EVENTS)); say("create", inotify_add_watch(fd, "d", IN_ALL_EVENTS | IN_MASK_CREATE));
    events("nothing");
    f = open("d/g", O_RDWR | O_CREAT, 0644); events("create");
    write(f, "abc", 3); write(f, "def", 3); events("write joined"); lseek(f, 0, 0); read(f, c, 9); read(f, c, 9); events("read"); pread(f, c, 1, 0); ftruncate(f, 1); fallocate(f, 0, 0, 10); fchmod(f, 0600); futimens(f, 0); events("more");
    fsetxattr(f, "trusted.x", "1", 1, 0); fremovexattr(f, "trusted.x"); events("xattr"); close(f); events("close"); close(open("d/g", O_RDONLY)); events("open read"); close(open("d/g", O_WRONLY | O_TRUNC)); events("open trunc"); truncate("d/g", 5); events("truncate"); close(open("d/g", O_PATH)); events("path");
    chmod("d/g", 0644); chown("d/g", 1, 1); events("chmod chown"); stat("d/g", (struct stat *)c + 0 ? &(struct stat){0} : 0); events("stat"); link("d/g", "d/h"); events("link"); link("d/g", "e/h"); events("link elsewhere"); symlink("x", "d/sym"); mkfifo("d/fifo", 0600); mkdir("d/sub", 0755); events("others");
    rename("d/h", "d/i"); events("rename"); rename("d/i", "e/i"); events("out"); rename("e/i", "d/in"); events("in"); rename("d/sub", "d/bus"); events("directory"); rename("d/in", "d/g2"); touch("d/over"); events("x"); rename("d/g2", "d/over"); events("replace"); rmdir("d/bus"); unlink("d/sym"); unlink("d/fifo"); events("remove");
    renameat2(-100, "d/f", -100, "d/over", 2); events("exchange");
    // The file and its directory.
    int w = inotify_add_watch(fd, "d/f", IN_ALL_EVENTS); say("file", w); f = open("d/f", O_RDONLY); read(f, c, 1); fchmod(f, 0600); close(f); events("both");
    rename("d/f", "d/ff"); events("move self"); inotify_add_watch(fd, "d", IN_DELETE); unlink("d/ff"); events("delete"); unlink("e/h"); events("elsewhere");
    touch("d/k"); w = inotify_add_watch(fd, "d/k", IN_ALL_EVENTS); f = open("d/k", O_WRONLY); unlink("d/k"); events("open and unlinked"); write(f, "x", 1); close(f); events("last close");
    touch("d/k"); inotify_add_watch(fd, "d/k", IN_ALL_EVENTS); touch("d/l"); rename("d/l", "d/k"); events("replaced");
    // Masks.
    w = inotify_add_watch(fd, "e", IN_OPEN); say("add", inotify_add_watch(fd, "e", IN_CREATE | IN_MASK_ADD)); close(open("e/a", O_CREAT, 0600)); events("two"); inotify_add_watch(fd, "e", IN_DELETE); unlink("e/a"); events("one"); say("rm", inotify_rm_watch(fd, w)); say("rm again", inotify_rm_watch(fd, w)); events("ignored");
    inotify_add_watch(fd, "e", IN_CREATE | IN_ONESHOT); touch("e/b"); touch("e/c"); events("oneshot");
    inotify_add_watch(fd, "e", IN_ALL_EVENTS | IN_EXCL_UNLINK); f = open("e/b", O_WRONLY); unlink("e/b"); write(f, "x", 1); close(f); events("excl unlink"); opendir("e"); events("opendir"); rmdir("e/x"); unlink("e/c"); rmdir("e"); events("rmdir self");
    symlink("d", "ln"); w = inotify_add_watch(fd, "ln", IN_ATTRIB | IN_DONT_FOLLOW); say("link", w); lchown("ln", 5, 5); unlink("ln"); events("link itself");
    // Reading.
    inotify_add_watch(fd, "d", IN_OPEN); touch("d/a-long-enough-name"); say("small buffer", read(fd, c, 20)); struct pollfd p = {fd, POLLIN | POLLOUT}; printf("poll %d %x\n", poll(&p, 1, 0), p.revents); events("rest"); printf("poll %d\n", poll(&p, 1, 0)); say("write", write(fd, c, 1));
    for (int i = 0; i < 20000; i++) { close(open(i & 1 ? "d/g" : "d/over", O_RDONLY)); }
    static char big[1 << 20]; long n, count = 0, over = 0; while ((n = read(fd, big, sizeof big)) > 0) for (char *q = big; q < big + n; q += 16 + ((struct inotify_event *)q)->len) { count++; over += ((struct inotify_event *)q)->wd == -1; }
    printf("overflow: %ld events, %ld marks\n", count, over);
    int many = 0; while (inotify_init() >= 0 && many < 1000) many++; printf("instances %d %s\n", many, strerror(errno)); for (int i = 5; i < 200; i++) if (i != fd) close(i); say("again", inotify_init() >= 0);
    touch("/tmp/ino/d/z"); events("z"); inotify_add_watch(fd, "d/z", IN_ALL_EVENTS); chdir("/"); umount2("/tmp/ino", MNT_DETACH); events("unmount");
    // Blocking.
    mkdir("/tmp/wait", 0755); int g = inotify_init(); inotify_add_watch(g, "/tmp/wait", IN_CREATE); if (!fork()) { usleep(100000); touch("/tmp/wait/x"); _exit(0); } n = read(g, big, sizeof big); printf("woken %ld %s\n", n, ((struct inotify_event *)big)->name); wait(0);
    return 0;
}
C
gcc -w -O1 -o /tmp/ino.bin /tmp/ino.c && /tmp/ino.bin; cat /proc/sys/fs/inotify/max_queued_events /proc/sys/fs/inotify/max_user_instances
