# 64 threads and few locks: every hand-over must arrive.
#: timeout 240
#: run --cpus 2
cat > /tmp/storm.c <<'C'
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <unistd.h>
enum { THREADS = 64, ROUNDS = 500, LOCKS = 3 };
static pthread_mutex_t locks[LOCKS]; static long counts[LOCKS];
static pthread_cond_t all; static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; static int open_gate, arrived;
static sem_t tokens; static pthread_rwlock_t shared = PTHREAD_RWLOCK_INITIALIZER; static long written;
static void *storm(void *arg) {
    pthread_mutex_lock(&gate); arrived++; while (!open_gate) pthread_cond_wait(&all, &gate); pthread_mutex_unlock(&gate);
    for (long i = 0; i < ROUNDS; i++) {
        int which = (i + (long)arg) % LOCKS;
        pthread_mutex_lock(&locks[which]); counts[which]++; pthread_mutex_unlock(&locks[which]);
        if (i % 16 == 0) { sem_wait(&tokens); usleep(1); sem_post(&tokens); }
        if (i % 32 == 0) { pthread_rwlock_wrlock(&shared); written++; pthread_rwlock_unlock(&shared); }
        else { pthread_rwlock_rdlock(&shared); pthread_rwlock_unlock(&shared); }
    }
    return NULL;
}
int main(void) {
    pthread_t threads[THREADS]; sem_init(&tokens, 0, 4);
    for (int i = 0; i < LOCKS; i++) pthread_mutex_init(&locks[i], NULL);
    for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, storm, (void *)i);
    for (int ready = 0; !ready; usleep(1000)) { pthread_mutex_lock(&gate); ready = arrived == THREADS; pthread_mutex_unlock(&gate); }
    pthread_mutex_lock(&gate); open_gate = 1; pthread_cond_broadcast(&all); pthread_mutex_unlock(&gate);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    printf("%ld %ld\n", counts[0] + counts[1] + counts[2], written);
}
C
gcc -O2 -pthread -o /tmp/storm /tmp/storm.c && /tmp/storm && /tmp/storm
