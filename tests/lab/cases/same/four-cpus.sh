# Four CPUs: nproc and affinity agree with the options, and threads on all of them give right sums.
#: timeout 240
#: run --cpus 4 --memory 1G
cat > /tmp/sum.c <<'C'
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define SIZE (64u << 20)
static unsigned char *data;
static void *sum(void *arg) {
    unsigned long part = (unsigned long)arg; uint64_t *result = calloc(1, 8);
    for (int round = 0; round < 4; round++)
        for (uint64_t *p = (uint64_t *)(data + part * (SIZE / 4)), *end = p + SIZE / 32; p < end; p++) *result = *result * 31 + *p;
    return result;
}
int main(void) {
    data = malloc(SIZE); for (unsigned i = 0; i < SIZE; i += 8) *(uint64_t *)(data + i) = i * 2654435761u;
    pthread_t threads[4]; uint64_t total = 0;
    for (long i = 0; i < 4; i++) pthread_create(&threads[i], NULL, sum, (void *)i);
    for (int i = 0; i < 4; i++) { void *part; pthread_join(threads[i], &part); total ^= *(uint64_t *)part; }
    printf("%016lx\n", total);
}
C
gcc -O2 -pthread -o /tmp/sum /tmp/sum.c && /tmp/sum
