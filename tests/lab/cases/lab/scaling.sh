# A checksum over 1 GiB with 1 and with 4 threads on 4 CPUs: the sum is right, and four threads gain as much as
# they do natively. The lab's own CPUs share one host CPU, so that is not four times.
#: timeout 500
cat > /tmp/sum.c <<'C'
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#define SIZE (1ul << 30)
static uint64_t *data; static int threads;
static void *sum(void *arg) {
    uint64_t words = SIZE / 8 / threads, *p = data + (long)arg * words, a = 0, b = 0;
    for (uint64_t i = 0; i < words; i += 4) { a += p[i] ^ p[i + 1]; b += p[i + 2] ^ p[i + 3]; }
    uint64_t *result = malloc(8); *result = a * 3 + b; return result;
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(void) {
    data = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return 1;
    for (uint64_t i = 0; i < SIZE / 8; i += 512) data[i] = i;
    double took[2]; uint64_t sums[2] = {0, 0};
    for (int round = 0; round < 2; round++) {
        threads = round ? 4 : 1; pthread_t t[4]; double start = now();
        for (long i = 0; i < threads; i++) pthread_create(&t[i], NULL, sum, (void *)i);
        for (int i = 0; i < threads; i++) { void *r; pthread_join(t[i], &r); sums[round] += *(uint64_t *)r; }
        took[round] = now() - start;
    }
    fprintf(stderr, "1 thread %.2f s, 4 threads %.2f s\n", took[0], took[1]);
    printf("%016lx %016lx %d\n", sums[0], sums[1], (int)(took[0] / took[1] * 100));
}
C
gcc -O1 -static -pthread -o /tmp/sum /tmp/sum.c || exit 1
program=$(base64 -w0 < /tmp/sum)
native=$(native sh -c "base64 -d > /tmp/sum; chmod +x /tmp/sum; /tmp/sum" <<< "$program") || exit 1
sandbox=$(ringfence run --image /srv/debian.erofs --cpus 4 --memory 1400M -- sh -c "base64 -d > /tmp/sum; chmod +x /tmp/sum; /tmp/sum" <<< "$program") || exit 1
echo "native: $native; sandbox: $sandbox (sums, then the gain of 4 threads in percent)"
[ "${native% *}" = "${sandbox% *}" ] || { echo "FAIL: the sums differ"; exit 1; }
[ $((${sandbox##* } * 100)) -ge $((${native##* } * 60)) ] || { echo "FAIL: four threads gain much less than natively"; exit 1; }
