# Compiles a C program with threads and runs it; a static one, too.
#: timeout 240
cat > /tmp/t.c <<'C'
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static int counter, whose;
static _Thread_local int mine;
static atomic_int passes;
static void *add(void *arg) {
    for (int i = 0; i < 10000; i++) { pthread_mutex_lock(&lock); counter++; mine++; pthread_mutex_unlock(&lock); }
    if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) passes++;
    return (void *)(long)mine;
}
static void *pingpong(void *arg) {
    int me = (long)arg;
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(&lock);
        while (whose != me) pthread_cond_wait(&turn, &lock);
        whose = !me; pthread_cond_signal(&turn); pthread_mutex_unlock(&lock);
    }
    return NULL;
}
static sigjmp_buf back;
static void fault(int signal, siginfo_t *info, void *context) { siglongjmp(back, info->si_addr == (void *)8 ? 1 : 2); }
int main(int argc, char **argv) {
    pthread_t threads[8]; void *result; long sum = 0;
    pthread_barrier_init(&barrier, NULL, 8);
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, add, NULL);
    for (int i = 0; i < 8; i++) { pthread_join(threads[i], &result); sum += (long)result; }
    printf("%d %ld %d\n", counter, sum, passes);
    for (long i = 0; i < 2; i++) pthread_create(&threads[i], NULL, pingpong, (void *)i);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    printf("ping-pong ends with %d\n", whose);
    stack_t stack = {.ss_sp = malloc(SIGSTKSZ * 4), .ss_size = SIGSTKSZ * 4}; sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_ONSTACK}; sigaction(SIGSEGV, &action, NULL);
    int how = sigsetjmp(back, 1);
    if (how == 0) *(volatile int *)8 = 1;
    printf("fault at %s\n", how == 1 ? "8" : "elsewhere");
    double x = 0; for (int i = 1; i < 1000; i++) x += 1.0 / i; printf("%.15f\n", x);
    for (int i = 1; i < argc; i++) puts(argv[i]);
    return 11;
}
C
gcc -O2 -Wall -pthread -o /tmp/t /tmp/t.c && /tmp/t one 'two words'; echo "dynamic: $?"
gcc -O1 -static -pthread -o /tmp/ts /tmp/t.c && /tmp/ts; echo "static: $?"
gcc -O0 -static-pie -pthread -o /tmp/tp /tmp/t.c && /tmp/tp; echo "static-pie: $?"
echo 'int main() { return *(int *)0; }' > /tmp/crash.c; gcc -o /tmp/crash /tmp/crash.c; /tmp/crash; echo "crash: $?"
echo 'int main() { return x; }' > /tmp/bad.c; gcc -c /tmp/bad.c 2>&1 | head -n 2
