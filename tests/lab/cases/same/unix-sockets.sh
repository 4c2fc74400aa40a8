# AF_UNIX sockets: options, datagrams of strangers, peeking, many messages at once, descriptors in circles.
#: timeout 60
cat > /tmp/un.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void say(const char *what, long n) { printf("%s: %ld%s%s\n", what, n, n < 0 ? " " : "", n < 0 ? strerror(errno) : ""); }
static socklen_t abstract(struct sockaddr_un *a, const char *name) { memset(a, 0, sizeof *a); a->sun_family = AF_UNIX; strcpy(a->sun_path + 1, name); return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name); }
static int opt(int s, int o) { int v = -9; socklen_t l = sizeof v; if (getsockopt(s, SOL_SOCKET, o, &v, &l)) return -errno; return v; }
static int set(int s, int o, int v) { return setsockopt(s, SOL_SOCKET, o, &v, sizeof v) ? -errno : 0; }
static int send_fds(int s, int *fds, int n) { char c[CMSG_SPACE(sizeof(int) * 253)] = {0}; struct iovec v = {"x", 1}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = CMSG_SPACE(sizeof(int) * n)}; struct cmsghdr *h = CMSG_FIRSTHDR(&m); h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_RIGHTS; h->cmsg_len = CMSG_LEN(sizeof(int) * n); memcpy(CMSG_DATA(h), fds, sizeof(int) * n); return sendmsg(s, &m, MSG_DONTWAIT); }
int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0); signal(SIGPIPE, SIG_IGN); char b[300000]; int s[2], d[2]; struct sockaddr_un a, a2; socklen_t l;
    socketpair(AF_UNIX, SOCK_STREAM, 0, s); socketpair(AF_UNIX, SOCK_DGRAM, 0, d);
    puts("-- options"); printf("%d %d %d %d %d\n", opt(s[0], SO_TYPE), opt(d[0], SO_TYPE), opt(s[0], SO_DOMAIN), opt(s[0], SO_PROTOCOL), opt(s[0], SO_ACCEPTCONN)); printf("%d %d\n", opt(s[0], SO_SNDBUF), opt(s[0], SO_RCVBUF)); printf("%d %d\n", set(s[0], SO_SNDBUF, 10000), opt(s[0], SO_SNDBUF)); set(s[0], SO_SNDBUF, 1); set(s[0], SO_RCVBUF, 1); printf("%d %d\n", opt(s[0], SO_SNDBUF), opt(s[0], SO_RCVBUF)); set(s[0], SO_SNDBUF, 10000000); printf("%d\n", opt(s[0], SO_SNDBUF)); printf("%d %d\n", set(s[0], SO_REUSEADDR, 5), opt(s[0], SO_REUSEADDR)); printf("%d %d %d\n", opt(s[0], SO_KEEPALIVE), opt(s[0], SO_BROADCAST), opt(s[0], SO_RCVLOWAT)); printf("%d %d\n", set(s[0], 999, 1), opt(s[0], 999)); printf("short %d\n", setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, b, 2)); printf("peek off %d\n", opt(s[0], SO_PEEK_OFF));
    puts("-- peek"); write(s[0], "hello", 5); write(s[0], "world", 5); say("peek", recv(s[1], b, 7, MSG_PEEK)); printf("%.7s\n", b); set(s[1], SO_PEEK_OFF, 2); say("from 2", recv(s[1], b, 4, MSG_PEEK)); printf("%.4s\n", b); say("on", recv(s[1], b, 40, MSG_PEEK)); printf("%.4s\n", b); say("beyond", recv(s[1], b, 4, MSG_PEEK | MSG_DONTWAIT)); say("read", read(s[1], b, 5)); printf("off %d\n", opt(s[1], SO_PEEK_OFF)); set(s[1], SO_PEEK_OFF, -1); int n; ioctl(s[1], FIONREAD, &n); printf("left %d\n", n); read(s[1], b, 5); say("empty", recv(s[1], b, 4, MSG_PEEK | MSG_DONTWAIT));
    puts("-- datagrams"); int x = socket(AF_UNIX, SOCK_DGRAM, 0), y = socket(AF_UNIX, SOCK_DGRAM, 0), z = socket(AF_UNIX, SOCK_DGRAM, 0); l = abstract(&a, "srv"); say("bind", bind(x, (void *)&a, l)); say("twice", bind(x, (void *)&a, l)); say("taken", bind(y, (void *)&a, l)); say("unconnected", send(y, "x", 1, 0)); say("sendto", sendto(y, "hi", 2, 0, (void *)&a, l)); socklen_t l2 = sizeof a2; say("from", recvfrom(x, b, 9, 0, (void *)&a2, &l2)); printf("len %d\n", l2); say("connect", connect(y, (void *)&a, l)); say("send", send(y, "one", 3, 0)); say("trunc", recv(x, b, 1, MSG_TRUNC)); socklen_t l3 = abstract(&a2, "cli"); say("bind y", bind(y, (void *)&a2, l3)); say("x to y", connect(x, (void *)&a2, l3)); say("stranger", sendto(z, "x", 1, 0, (void *)&a, l)); say("stranger connects", connect(z, (void *)&a, l)); say("peer", send(y, "x", 1, 0)); struct sockaddr un = {AF_UNSPEC}; say("unspec", connect(x, &un, sizeof un)); say("stranger now", sendto(z, "x", 1, 0, (void *)&a, l)); n = 0; while (sendto(z, "x", 1, MSG_DONTWAIT, (void *)&a, l) == 1) n++; printf("%d more, %s\n", n, strerror(errno)); struct pollfd p = {y, POLLOUT}; printf("poll %d\n", poll(&p, 1, 0)); n = 0; while (recv(x, b, 9, MSG_DONTWAIT) >= 0) n++; printf("read %d\n", n); printf("poll %d\n", poll(&p, 1, 0)); say("too long", send(d[0], b, 250000, MSG_DONTWAIT)); n = 0; while (send(d[0], "y", 1, MSG_DONTWAIT) == 1) n++; printf("pair takes more than 11: %d\n", n > 11); close(x); say("refused", send(y, "x", 1, 0)); say("then", send(y, "x", 1, 0)); say("nobody", sendto(z, "x", 1, 0, (void *)&a, l)); say("kind", connect(s[0], (void *)&a, l));
    int auto1 = socket(AF_UNIX, SOCK_DGRAM, 0); a.sun_family = AF_UNIX; say("autobind", bind(auto1, (void *)&a, 2)); l2 = sizeof a2; getsockname(auto1, (void *)&a2, &l2); printf("len %d %d\n", l2, a2.sun_path[0]);
    puts("-- many"); struct mmsghdr mm[5] = {0}; struct iovec v[5]; char bufs[5][10]; for (int i = 0; i < 5; i++) { bufs[i][0] = '0' + i; v[i] = (struct iovec){bufs[i], i + 1}; mm[i].msg_hdr.msg_iov = v + i; mm[i].msg_hdr.msg_iovlen = 1; } int e[2]; socketpair(AF_UNIX, SOCK_SEQPACKET, 0, e); say("sendmmsg", sendmmsg(e[0], mm, 3, 0)); printf("%u %u %u\n", mm[0].msg_len, mm[1].msg_len, mm[2].msg_len); for (int i = 0; i < 5; i++) v[i].iov_len = 10; say("recvmmsg", recvmmsg(e[1], mm, 5, MSG_WAITFORONE, 0)); printf("%u %u %u %c\n", mm[0].msg_len, mm[1].msg_len, mm[2].msg_len, bufs[2][0]); say("none", recvmmsg(e[1], mm, 5, MSG_DONTWAIT, 0)); say("bad vector", sendmmsg(e[0], (void *)8, 1, 0)); struct timespec ts = {0, 0}; send(e[0], "a", 1, 0); send(e[0], "b", 1, 0); say("time out", recvmmsg(e[1], mm, 5, 0, &ts)); say("zero", sendmmsg(e[0], mm, 0, 0)); printf("flags %x\n", mm[0].msg_hdr.msg_flags);
    puts("-- descriptors"); int r[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, r); for (int i = 0; i < 20; i++) { int q[2]; socketpair(AF_UNIX, SOCK_DGRAM, 0, q); if (send_fds(q[0], q, 2) < 0) say("circle", -1); close(q[0]); close(q[1]); } int pp[2], q[2]; pipe(pp); socketpair(AF_UNIX, SOCK_STREAM, 0, q); send_fds(q[0], (int[]){q[0], q[1], pp[1]}, 3); close(q[0]); close(q[1]); close(pp[1]); int t[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, t); close(t[0]); close(t[1]); p = (struct pollfd){pp[0], POLLIN}; printf("collected %d %x\n", poll(&p, 1, 2000), p.revents);
    n = 0; struct rlimit rl = {64, 64}; fflush(stdout); if (!fork()) { setrlimit(RLIMIT_NOFILE, &rl); setuid(1000); int u[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, u); while (send_fds(u[0], (int[]){0, 1, 2, 0, 1, 2, 0, 1, 2, 0}, 10) == 1) n++; printf("in flight %d %s\n", n * 10, strerror(errno)); fflush(stdout); _exit(0); } wait(0);
    int chain = socket(AF_UNIX, SOCK_STREAM, 0); for (int i = 0; i < 300; i++) { int c[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, c); if (send_fds(c[0], &chain, 1) < 0) { say("chain", -1); break; } close(chain); close(c[0]); chain = c[1]; } close(chain); puts("chain dropped");
    puts("-- list"); int ls = socket(AF_UNIX, SOCK_STREAM, 0); l = abstract(&a, "listed"); bind(ls, (void *)&a, l); listen(ls, 5); printf("accepts %d\n", opt(ls, SO_ACCEPTCONN)); fflush(stdout); system("head -1 /proc/net/unix; grep -a @listed /proc/net/unix | cut -d' ' -f2-6"); say("inq of listener", ioctl(ls, FIONREAD, &n));
    return 0;
}
C
gcc -w -O1 -o /tmp/unb /tmp/un.c && /tmp/unb
