# The filters of system calls (seccomp/README.md): what a violation looks like, and every way through the VMM that makes calls of
# its own; `cargo xtask test --only seccomp` records them meanwhile.
#: timeout 300
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
run() { ringfence run --image /srv/debian.erofs "$@"; }

# Every thread of the VMM has a filter before the guest runs, and no other process needs one.
ringfence run --image /srv/debian.erofs --cpus 3 -- sh -c 'echo ready; exec sleep 100' > /tmp/s-out & main=$!
until grep -q ready /tmp/s-out; do sleep 0.1; done
vmm=$(pgrep -x ringfence-vmm)
check "threads and their filters" "$(for t in /proc/$vmm/task/*; do echo "$(cat $t/comm) $(awk '/^Seccomp/ { print $2 }' $t/status | tr '\n' ' ')"; done | sort | tr '\n' ' ')" "ringfence-vmm 2 1  vcpu0 2 1  vcpu1 2 1  vcpu2 2 1  "
kill $main; wait $main; check "its end" $? 143

# A thread that was taken over makes another call: the debugger of this machine's root makes it.
cat > /tmp/inject.c << 'C'
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
int main(int argc, char **argv) {
    int thread = atoi(argv[1]), status;
    struct user_regs_struct r;
    if (ptrace(PTRACE_SEIZE, thread, 0, 0) || ptrace(PTRACE_INTERRUPT, thread, 0, 0)) return perror("ptrace"), 1;
    if (waitpid(thread, &status, __WALL) != thread || ptrace(PTRACE_GETREGS, thread, 0, &r)) return perror("stop"), 1;
    // It waits in a call: two bytes back is the instruction that made it. It is not to be made again.
    r.rip -= 2, r.orig_rax = -1, r.rax = atoi(argv[2]), r.rdi = -100;
    if (ptrace(PTRACE_SETREGS, thread, 0, &r) || ptrace(PTRACE_DETACH, thread, 0, 0)) return perror("go"), 1;
    return 0;
}
C
gcc -o /tmp/inject /tmp/inject.c || exit 1
violate() {
    ringfence run --image /srv/debian.erofs -- sh -c 'echo ready; exec sleep 100' > /tmp/s-out 2> /tmp/s-err & main=$!
    until grep -q ready /tmp/s-out; do sleep 0.1; done
    /tmp/inject "$(grep -lx "$1" /proc/$(pgrep -x ringfence-vmm)/task/*/comm | cut -d/ -f5)" "$2"
    wait $main; check "$1 makes call $2" "$? $(tr '\n' ' ' < /tmp/s-err)" "119 ringfence: the $3 thread made the system call $4 .$2., which its filter forbids; arguments 0xffffffffffffff9c .* ringfence: the VMM was ended because of that.* "
}
violate vcpu0 257 vcpu openat
violate ringfence-vmm 41 event_loop socket
no-leftovers || failed=1

# Where CPUs were; counters; a log; large output; a program with the exit code of a violation.
check "a time-out" "$(run --timeout 2s --loglevel error -- sh -c 'while :; do :; done' 2>&1 | grep -c 'vcpu0 at rip'; exit ${PIPESTATUS[0]})" 1
check "counters" "$(run --stats --cpus 4 -- true 2>&1 | grep -c '^exits to the VMM')" 1
check "a log" "$(run --memory 64M --loglevel warn -- sh -c 'head -c 300M /dev/zero | tail -c 200M' 2>&1 > /dev/null | grep -ci 'out of memory')" "[1-9][0-9]*"
check "a code" "$(run -- sh -c 'exit 119' 2>&1; echo $?)" 119
check "20 MB" "$(run -- head -c 20M /dev/zero | wc -c)" 20971520

# Sockets as standard streams, whose peer is slow.
python3 - << 'P' || failed=1
import socket, subprocess, time
ours, theirs = socket.socketpair()
p = subprocess.Popen(['ringfence', 'run', '--image', '/srv/debian.erofs', '--', 'tee', '/dev/stderr'], stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
theirs.close()
data = bytes(range(256)) * 4096
import threading
def send():
    ours.sendall(data); ours.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
time.sleep(3)
got = b''
while piece := ours.recv(65536): got += piece
print('ok: sockets' if got == data and p.wait() == 0 else f'FAIL: sockets: {len(got)} bytes, {p.wait()}')
raise SystemExit(got != data)
P

# Signals to the program, and to a command whose program is gone; the same without a jail, and of stock Linux.
ringfence run --image /srv/debian.erofs -- sh -c 'trap "exit 7" USR1; echo ready; while :; do sleep 0.1; done' > /tmp/s-out & main=$!
until grep -q ready /tmp/s-out; do sleep 0.1; done
kill -USR1 $main; wait $main; check "a signal" $? 7
check "no jail" "$(run --no-jail --stats=/tmp/s-stats -- sh -c 'echo out; exit 9' 2> /dev/null; echo $?)" "out.9"
check "its counters" "$(grep -c 'exits to the VMM' /tmp/s-stats)" 1
no-leftovers || failed=1
exit $failed
