# strace: a program's calls, filters, children and threads, signals, counts, attaching, injected errors and results.
#: timeout 600
#: run --memory 2G
#: filter s/0x[0-9a-f]+/ADDRESS/g
#: filter s/si_pid=[0-9]+/si_pid=PID/
#: filter s/Process [0-9]+ (attached|detached)/Process PID \1/
#: filter /^Terminated$/d
#: filter s/\/\* [0-9]+ vars \*\//VARS/
# The shell says "Terminated" of what it starts or not, as it happens to notice it; the codes are compared.
mkdir /tmp/strace && cd /tmp/strace || exit
echo text > file
echo "== calls"
strace -o log cat file
grep -E '"file"|text|exit' log | sed -E 's/= [3-9]$/= FD/; s/(read|close|fadvise64|newfstatat)\([3-9]/\1(FD/'
strace -v -s 4 -o log stat -c %s file; grep -oE 'statx\(.*stx_size=[0-9]+' log | grep -oE '"file"|stx_mode=[^,]*|stx_size=.*'
strace -yy -P /tmp/strace/file -o log cat /tmp/strace/file; grep -cE '</tmp/strace/file>' log
strace -k -e trace=exit_group true 2>&1 | grep -c '_exit'
echo "== children"
strace -f -e trace=execve,exit_group -o log sh -c '/bin/true; /bin/false; echo done'
sed -E 's/^[0-9]+ +//' log | grep -E 'execve|exit' | sort
strace -e trace=%process -f -o log python3 -c 'import subprocess; print(subprocess.run(["true"]).returncode)'
grep -oE '(vfork|clone|execve|wait4|exit_group)\(|SIGCHLD' log | sort | uniq -c
strace -ff -o each sh -c 'true & /bin/true; wait'; ls each.* | wc -l
strace -f --seccomp-bpf -e trace=chdir,getcwd -o log sh -c '(cd / && /bin/pwd); cd /usr; /bin/pwd; true'
sed -E 's/^[0-9]+ +//' log | grep -vE '^strace|exited|SIGCHLD' | sort
echo "== threads"
cat > threads.py <<'EOF'
import os, threading
def work(n): os.mkdir(f"d{n}")
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
EOF
strace -f -e trace=mkdir,clone3,clone -o log python3 threads.py
grep -oE 'mkdir\("d[0-9]", 0777' log | sort; grep -c CLONE_THREAD log; cut -d' ' -f1 log | sort -u | wc -l
echo "== signals"
strace -e trace=none -e signal=usr1,term -o log sh -c 'trap "echo trapped" USR1; kill -USR1 $$; kill $$'; cat log
strace -e trace=none -o log sh -c 'kill -STOP $$; echo on' & tracer=$!
for try in $(seq 100); do grep -q 'stopped by SIGSTOP' log && break; sleep 0.1; done
kill -CONT $(cat /proc/$tracer/task/$tracer/children); wait $tracer; echo "stopped: $?"; cat log
strace -o log python3 -c 'import ctypes; ctypes.string_at(8)' 2> /dev/null; echo "fault: $?"; grep -E 'SIGSEGV' log
echo "== attached"
sleep 1000 & target=$!
strace -p $target -o log & tracer=$!
traced() { for try in $(seq 100); do grep -q 'TracerPid:.[1-9]' /proc/$1/status && sleep 1 && return; sleep 0.1; done; }
traced $target; kill -CONT $target; sleep 1; kill $target; wait $target; echo "target: $?"; wait $tracer; echo "tracer: $?"; grep -E 'SIG|killed' log
sleep 1000 & target=$!
strace -p $target -o log & tracer=$!
traced $target
kill -INT $tracer
wait $tracer; echo "let go: $?"; grep -c TracerPid:.0 /proc/$target/status; kill $target; wait $target
echo "== injected"
strace -e inject=openat:error=EACCES:when=3+ -o log cat file 2> error; grep -c INJECTED log; cat error
strace -e inject=getcwd:error=ENOENT -o /dev/null /bin/pwd; echo "pwd: $?"
strace -e trace=geteuid -e inject=geteuid:retval=1234 -o log id -u; cat log
strace -e inject=write:signal=KILL:when=2 -o log sh -c 'echo 1; echo 2; echo 3'; echo "killed: $?"
strace -e inject=write:delay_enter=100000 -o log sh -c 'echo slow'
echo "== counts"
strace -c -o log ls / > /dev/null; grep -oE ' (openat|getdents64|write|mmap|execve)$' log | sort; grep -c total log
strace -f -c -U calls,errors,name -o log sh -c 'cat missing; cat file; rm file' 2> /dev/null; grep -E ' (execve|unlinkat)$' log | sort
