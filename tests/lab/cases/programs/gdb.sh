# gdb: breakpoints, steps, data, watchpoints, threads, signals, forks, changed registers, attaching, cores.
#: timeout 1200
#: run --memory 2G
#: filter s/0x[0-9a-f]+/ADDRESS/g
#: filter s/(LWP|process) [0-9]+/\1 N/g
mkdir /tmp/gdb && cd /tmp/gdb || exit
cat > main.c <<'END'
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile int counter;

static int factorial(int n)
{
    if (n <= 1)
        return 1;
    return n * factorial(n - 1);
}

static void *thread(void *argument)
{
    __atomic_add_fetch(&counter, *(int *)argument, __ATOMIC_SEQ_CST);
    return 0;
}

static void handler(int signal)
{
    counter += 100;
}

int main(int argc, char **argv)
{
    int value = 5;
    int result = factorial(value);
    printf("%d\n", result);
    pthread_t id;
    pthread_create(&id, 0, thread, &value);
    pthread_join(id, 0);
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
    for (int i = 0; i < 3; i++)
        counter++;
    printf("counter %d\n", counter);
    if (argc > 1)
        *(volatile int *)8 = 1;
    fflush(stdout);
    return counter;
}
END
gcc -g -O0 -pthread main.c -o main || exit
gdb() {
    command gdb -nx -q -batch -iex 'set debuginfod enabled off' -iex 'set startup-with-shell off' "$@" < /dev/null 2>&1 |
        grep -vE '^$|^warning|libthread_db|host libthread|^\[(New|Thread|Inferior)|in \?\? \(\)'
}
quiet='handle SIGUSR1 nostop noprint'
echo "== steps"
gdb -ex 'break factorial if n == 2' -ex run -ex bt -ex 'print n' -ex next -ex step -ex step -ex 'info args' -ex finish \
    -ex 'info breakpoints' -ex continue main
echo "== watched by steps"
gdb -ex 'set can-use-hw-watchpoints 0' -ex "$quiet" -ex 'break 36' -ex run -ex 'watch counter' -ex continue -ex continue \
    -ex 'info watchpoints' -ex delete -ex continue main
echo "== watched by debug registers"
gdb -ex "$quiet" -ex 'break 36' -ex run -ex 'watch counter' -ex 'continue' -ex 'info watchpoints' -ex continue -ex delete \
    -ex continue main
gdb -ex "$quiet" -ex 'break main' -ex run -ex 'watch counter' -ex continue -ex continue main | grep -E '^(Hardware|Old|New|Thread)'
gdb -ex "$quiet" -ex 'break main' -ex run -ex 'rwatch counter if counter > 104' -ex 'awatch counter if counter > 106' -ex continue \
    -ex continue -ex 'delete 2' -ex continue main | grep -E '^(Hardware|Old|New|Value|counter)'
gdb -ex "$quiet" -ex 'break main' -ex run -ex 'hbreak handler' -ex continue -ex bt -ex 'info breakpoints' -ex kill main
echo "== changed"
gdb -ex "$quiet" -ex 'break 30' -ex run -ex 'set var result = 77' -ex 'print factorial(6)' -ex 'print (long)$sp % 16' -ex stepi \
    -ex 'nexti 2' -ex 'set counter = 1000' -ex 'tbreak handler' -ex continue -ex return -ex 'break 38' -ex continue \
    -ex 'print counter' -ex kill main
echo "== signals"
gdb -ex 'handle SIGUSR1 stop print' -ex run -ex 'info threads' -ex continue main | sed -E 's/^\* 1 .*/* 1 thread/'
gdb -ex 'handle SIGUSR1 nopass nostop noprint' -ex run main | tail -1
gdb -ex 'catch syscall exit_group' -ex "$quiet" -ex run -ex 'print $rdi' -ex continue main | grep -vE ' in '
gdb -ex "$quiet" -ex 'break handler' -ex run -ex 'signal SIGTERM' main | grep -vE ' in '
echo "== threads"
gdb -ex "$quiet" -ex 'break thread' -ex run -ex 'thread apply all -s frame 0' -ex 'print $_thread' -ex 'set scheduler-locking on' -ex next \
    -ex 'set scheduler-locking off' -ex continue main | grep -E 'Breakpoint|^Thread|^[0-9]|^\$|counter'
echo "== crash"
gdb -ex "$quiet" -ex run -ex bt -ex 'print $_siginfo.si_signo' -ex 'print $_siginfo._sifields._sigfault.si_addr' -ex 'x/i $rip' \
    --args main crash
echo "== forks"
cat > fork.c <<'END'
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int child(int code)
{
    return code + 1;
}

int main(void)
{
    int status;
    if (fork() == 0)
        exit(child(6));
    wait(&status);
    printf("child ended with %d\n", WEXITSTATUS(status));
    if (vfork() == 0)
        execl("/bin/echo", "echo", "executed", (char *)0);
    wait(&status);
    return 0;
}
END
gcc -g -O0 fork.c -o fork || exit
gdb -ex 'set follow-fork-mode child' -ex 'break child' -ex run -ex bt -ex 'print code = 8' -ex continue fork | grep -v '^\[' | sort
gdb -ex 'set detach-on-fork off' -ex 'catch fork' -ex run -ex next -ex 'info inferiors' -ex 'kill inferiors 1 2' fork |
    grep -oE '^Catchpoint.*|^[* ] [0-9].*process|^15.*'
gdb -ex 'set follow-fork-mode child' -ex 'catch exec' -ex 'catch vfork' -ex 'break 19' -ex run -ex continue fork | grep -oE 'Catchpoint.*|^child.*'
echo "== attached"
cat > wait.c <<'END'
#include <unistd.h>

static volatile int go;

int main(void)
{
    while (!go)
        usleep(10000);
    return go;
}
END
gcc -g -O0 wait.c -o wait || exit
./wait & target=$!
gdb -p $target -ex 'info symbol main' -ex 'print go' -ex detach | grep -E '^\$|symbol|detached|section'
grep TracerPid /proc/$target/status
gdb -p $target -ex 'break wait.c:8' -ex continue -ex 'print go = 9' -ex delete -ex detach | grep -E '^Breakpoint|^\$'
wait $target; echo "it ended: $?"
./wait & target=$!
gdb -p $target -ex 'gcore core' -ex kill | grep -oE 'Saved.*'
gdb -ex 'frame function main' -ex 'print go' -ex 'print $_exitcode' ./wait core | grep -E '^#.* main|^\$|^Core was'
wait $target; echo "it was: $?"
