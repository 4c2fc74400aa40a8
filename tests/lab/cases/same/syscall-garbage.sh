# Garbage to every system call that cannot end or block its caller, and bad pointers: an error, never a crash.
#: timeout 300
#: filter s/[0-9]+ calls/N calls/
cat > /tmp/fuzz.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static unsigned long seed = 42;
static unsigned long next(void) { seed = seed * 6364136223846793005ul + 1442695040888963407ul; return seed >> 20; }
static unsigned long garbage(void) {
    static const unsigned long odd[] = {0, 1, -1ul, 4095, 4096, 1ul << 31, 1ul << 47, (1ul << 47) - 1, 0xffff800000000000, 0xffffffff80000000, 0x7ffffffff000, 3, 100, 0xdead0000dead0000};
    return next() % 3 ? odd[next() % (sizeof odd / sizeof *odd)] : next();
}
int main(void) {
    unsigned long calls = 0, ended = 0;
    for (int number = -2; number < 470; number++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(2); setsid();
            for (int fd = 0; fd < 3; fd++) close(fd);
            for (int i = 0; i < 40; i++) {
                // never kill others, power off, or change what the test stands on
                switch (number) { case 62: case 200: case 234: case 169: case 129: case 297: case 424: case 155: case 165: case 166: case 161: case 157: case 48: case 101: case 426: case 425: case 57: case 58: case 56: case 435: break;
                default: syscall(number, garbage(), garbage(), garbage(), garbage(), garbage(), garbage()); }
            }
            _exit(0);
        }
        for (int i = 0; i < 240; i++) next();
        int status; if (waitpid(pid, &status, 0) == pid) ended++;
        calls += 40;
    }
    printf("%lu calls, %lu children\n", calls, ended);
    errno = 0; long result = syscall(100000, 1, 2, 3); printf("unknown: %ld %d\n", result, errno == ENOSYS);
    result = write(1, (void *)0xffff800000000000, 5); printf("kernel pointer: %ld %d\n", result, errno == EFAULT);
    result = read(0, (void *)8, 5); printf("null pointer: %ld\n", result);
}
C
gcc -O1 -w -o /tmp/fuzz /tmp/fuzz.c && /tmp/fuzz < /dev/zero
echo still alive
