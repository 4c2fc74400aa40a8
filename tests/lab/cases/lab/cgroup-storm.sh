# Control groups under attack: members fork, exit, sleep, eat and are moved, frozen, throttled, killed, while groups and
# controllers come and go. Afterwards nothing is left, and the counts are zero.
#: timeout 600
cat > /tmp/storm.py <<'P'
import os, random, signal, sys, time
seed = int(sys.argv[1]); seconds = float(sys.argv[2]); rnd = random.Random(seed)
G = '/sys/fs/cgroup/'
def wr(f, s):
    try:
        fd = os.open(G + f, os.O_WRONLY)
        try: os.write(fd, s.encode())
        finally: os.close(fd)
    except OSError: pass
def rd(f): return open(G + f).read()
def mk(d):
    try: os.mkdir(G + d)
    except OSError: pass
def rm(d):
    try: os.rmdir(G + d)
    except OSError: pass
wr('cgroup.subtree_control', '+cpu +memory +pids'); mk('s'); wr('s/cgroup.subtree_control', '+cpu +memory +pids'); wr('s/memory.max', '64M'); wr('s/pids.max', '60')
leaves = ['s/a', 's/b', 's/c', 's/d/e', 's/d/f']
def make():
    for d in ['s/a', 's/b', 's/c', 's/d']: mk(d)
    wr('s/d/cgroup.subtree_control', '+cpu +memory +pids')
    for d in leaves: mk(d)
make()
def member(n):
    r = random.Random(n)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN); keep = []
    while time.monotonic() < end:
        what = r.randrange(6)
        if what == 0:
            try:
                if os.fork() == 0:
                    wr(r.choice(leaves) + '/cgroup.procs', '0'); r.seed(os.getpid())
                    if r.randrange(2): os._exit(0)
            except OSError: pass
        elif what == 1: time.sleep(r.random() / 50)
        elif what == 2:
            for _ in range(20000): pass
        elif what == 3: keep.append(bytearray(r.randrange(1 << 20)))
        elif what == 4: keep.clear()
        else: os.sched_yield()
    os._exit(0)
def spawn(): 
    try: pid = os.fork()
    except OSError: return
    if pid == 0: wr(rnd.choice(leaves) + '/cgroup.procs', '0'); member(rnd.random())
# A child that was made at the end may not have moved into its group yet: nobody but we and the first process may be left.
def others(): return {int(p) for p in os.listdir('/proc') if p.isdigit()} - {1, os.getpid()}
def pids():
    try: return [int(p) for d in leaves for p in rd(d + '/cgroup.procs').split()]
    except OSError: return []
signal.signal(signal.SIGCHLD, signal.SIG_IGN); end = time.monotonic() + seconds; n = 0
while time.monotonic() < end:
    n += 1; what = rnd.randrange(14); leaf = rnd.choice(leaves + ['s/d'])
    if what < 3: spawn()
    elif what < 6:
        p = pids()
        if p: wr(leaf + '/cgroup.procs', str(rnd.choice(p)))
    elif what == 6: wr(leaf + '/cgroup.freeze', rnd.choice('01'))
    elif what == 7: wr(leaf + '/cpu.max', rnd.choice(['max', '5000 20000', '2000 10000', '50000']))
    elif what == 8: wr(leaf + '/cpu.weight', str(rnd.randrange(1, 10001)))
    elif what == 9: wr(leaf + '/memory.max', rnd.choice(['max', '4M', '16M'])) 
    elif what == 10 and rnd.randrange(4) == 0: wr(leaf + '/cgroup.kill', '1')
    elif what == 11: rm(rnd.choice(leaves)); make()
    elif what == 12: wr(rnd.choice(['s', 's/d']) + '/cgroup.subtree_control', rnd.choice(['-', '+']) + rnd.choice(['cpu', 'memory', 'pids'])); wr('s/cgroup.subtree_control', '+pids')
    else: [rd(f) for f in ('s/cpu.stat', 's/memory.stat', 's/cgroup.events', 's/pids.current') if os.path.exists(G + f)]
for d in leaves + ['s/d']: wr(d + '/cgroup.freeze', '0'); wr(d + '/cpu.max', 'max')
wr('s/cgroup.kill', '1'); gone = time.monotonic() + 30
while others() and time.monotonic() < gone: time.sleep(.05); wr('s/cgroup.kill', '1')
time.sleep(.5); wr('s/cgroup.subtree_control', '+cpu +memory +pids')
left = [rd('s/' + f).split('\n')[0] for f in ('cgroup.events', 'pids.current', 'memory.current')]
ok = left[0] == 'populated 0' and left[1] == '0' and int(left[2]) < 4 << 20
for d in leaves + ['s/d', 's']: rm(d)
ok = ok and not os.path.exists(G + 's')
print('seed', seed, 'rounds', n, left, rd('cgroup.stat').split(), 'ok' if ok else 'FAIL'); sys.exit(0 if ok else 1)
P
for run in '1 1' '2 1' '3 1' '1 4' '2 4' '3 4'; do
    read -r seed cpus <<< "$run"
    timeout 240 ringfence run --cpus "$cpus" --memory 256M --image /srv/debian.erofs -- python3 -c "$(cat /tmp/storm.py)" "$seed" 8 || { echo "FAIL seed $seed cpus $cpus: $?"; exit 1; }
done
