// What it costs to run a command from start to exit: `starts REPEATS RUNS CMD ARGS` runs it RUNS times and prints,
// a line per repeat, the nanoseconds of one run and how many of them no CPU had anything to do. In the lab that
// counts instructions, the difference is instructions: of all processes, both kernels and all their threads.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mark.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

// In steps of 10 ms, hence the many runs.
static double idle(void) {
    double up, idle;
    FILE *file = fopen("/proc/uptime", "r");
    if (!file || fscanf(file, "%lf %lf", &up, &idle) != 2) exit(1);
    fclose(file);
    return idle * 1e9;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    int runs = atoi(argv[2]);
    for (int repeat = atoi(argv[1]); repeat > 0; repeat--) {
        double start = now(), idle_before = idle();
        MARK_BEGIN();
        for (int i = 0; i < runs; i++) {
            int status;
            pid_t child = vfork();
            if (child == 0) {
                int null = open("/dev/null", O_WRONLY);
                dup2(null, 1);
                execvp(argv[3], argv + 3);
                _exit(127);
            }
            if (child < 0 || waitpid(child, &status, 0) < 0 || status) {
                fprintf(stderr, "starts: %s failed\n", argv[3]);
                return 1;
            }
        }
        MARK_END();
        printf("%.0f %.0f\n", (now() - start) / runs, (idle() - idle_before) / runs);
        fflush(stdout);
    }
}
