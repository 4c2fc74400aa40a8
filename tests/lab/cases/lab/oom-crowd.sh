# Many processes in a control group without memory for them all: who waits for the one that is killed sleeps, and does not take
# the same fault again and again; what the kernel says of it is a few exits; and who is killed in a group that has used up
# its share of the CPUs ends all the same. Threads that have ended give their kernel stacks back.
#: timeout 300
cat > /tmp/crowd.py <<'P'
import os, signal, sys, time
G = '/sys/fs/cgroup/'
def wr(f, s):
    with open(G + f, 'w') as h: h.write(s)
wr('cgroup.subtree_control', '+cpu +memory'); os.mkdir(G + 'g'); wr('g/memory.max', '10M')
end = time.monotonic() + 8; kills = 0; live = set()
def eater():
    wr('g/cgroup.procs', '0'); keep = []
    while time.monotonic() < end: keep.append(b'x' * (1 << 20))
    os._exit(0)
while time.monotonic() < end:
    while len(live) < 12:
        p = os.fork()
        if p == 0: eater()
        live.add(p)
    p, s = os.wait(); live.discard(p); kills += os.WIFSIGNALED(s)
for p in live: os.kill(p, signal.SIGKILL)
for p in live: os.waitpid(p, 0)
# A millisecond of CPU time in a second: used up at once, for many seconds to come.
wr('g/memory.max', 'max'); wr('g/cpu.max', '1000 1000000'); live = []
for i in range(8):
    p = os.fork()
    if p == 0:
        wr('g/cgroup.procs', '0')
        while True: pass
    live.append(p)
time.sleep(2); begun = time.monotonic()
for p in live: os.kill(p, signal.SIGKILL)
for p in live: os.waitpid(p, 0)
print('kills', kills, 'throttled', round(1000 * (time.monotonic() - begun)))
P
cat > /tmp/threads.py <<'P'
import threading, time
def free(): return int(open('/proc/meminfo').read().split('MemFree:')[1].split()[0])
def burst():
    go = threading.Event(); threads = [threading.Thread(target=go.wait) for _ in range(300)]
    for t in threads: t.start()
    had = free(); go.set()
    for t in threads: t.join()
    time.sleep(.2); return had
threading.stack_size(32768); before = free(); during = burst(); after = free()
print('stacks', before - during, before - after)
P
failed=0
for cpus in 1 4; do
    timeout -s KILL 120 ringfence run --cpus $cpus --memory 256M --stats=/tmp/stats --image /srv/debian.erofs -- python3 -c "$(cat /tmp/crowd.py)" > /tmp/out 2>&1 || { echo "FAIL: cpus $cpus: $?"; cat /tmp/out; failed=1; continue; }
    read -r _ kills _ throttled < <(grep ^kills /tmp/out)
    io=$(grep -o ' io=[0-9]*' /tmp/stats | head -n 1); io=${io#*=}
    faults=$(grep -o 'page faults=[0-9]*' /tmp/stats); faults=${faults#*=}
    echo "cpus $cpus: $kills killed, $faults faults, $io port exits; throttled ones ended after $throttled ms"
    [ "$kills" -ge 1 ] || { echo "FAIL: nobody was killed"; failed=1; }
    [ "$faults" -lt $((30000 + 6000 * kills)) ] || { echo "FAIL: too many faults"; failed=1; }
    [ "$io" -lt 150 ] || { echo "FAIL: too many exits"; failed=1; }
    [ "$throttled" -lt 5000 ] || { echo "FAIL: they took too long"; failed=1; }
    timeout -s KILL 60 ringfence run --cpus $cpus --memory 256M --image /srv/debian.erofs -- python3 -c "$(cat /tmp/threads.py)" > /tmp/out 2>&1
    read -r _ taken kept < <(grep ^stacks /tmp/out)
    echo "300 threads took $taken KiB and kept $kept"
    # Their stacks are 9,600 KiB.
    [ "$((taken - kept))" -ge 6000 ] || { echo "FAIL: too little came back"; failed=1; }
done
no-leftovers || failed=1
exit $failed
