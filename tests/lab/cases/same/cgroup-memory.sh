# Control groups: memory is charged, limited, and its eater killed while others live.
#: timeout 120
cd /tmp && mkdir cg && mount -t cgroup2 none cg && cd cg || exit 1
echo "+memory" > cgroup.subtree_control; mkdir t; echo "+memory" > t/cgroup.subtree_control; cd t; mkdir a b
r() { echo "$@: $(cat "$@" 2>&1 | tr '\n' ' ')"; }; w() { (/bin/echo "$1" > "$2") 2>&1 | sed 's/.*: //'; }
for f in memory.current memory.peak memory.min memory.low memory.high memory.max memory.oom.group memory.events memory.events.local memory.swap.current memory.swap.max memory.swap.high memory.swap.events; do r a/$f; done
for v in 4095 8192 64K 1m 0x1000 max x "" -1 1x; do echo "max $v: $(w "$v" a/memory.max) $(cat a/memory.max)"; done; w max a/memory.max
for v in 1M max; do w $v a/memory.low; w $v a/memory.high; r a/memory.low; r a/memory.high; done; w 0 a/memory.low; echo "group: $(w 2 a/memory.oom.group) $(w 1 a/memory.oom.group) $(cat a/memory.oom.group)"; w 0 a/memory.oom.group
for k in anon file kernel shmem inactive_file active_anon slab pgfault pgmajfault; do grep -c "^$k [0-9]*$" a/memory.stat; done
python3 -u - <<'P'
import mmap, os, select, signal, time
M = 1 << 20
def rd(f): return open(f).read()
def wr(f, s):
    try: os.write(os.open(f, os.O_WRONLY), s.encode()); return 'ok'
    except OSError as e: return e.strerror
def num(f): return int(rd(f))
def kv(f): return {k: int(v) for k, v in (l.split() for l in rd(f).splitlines())}
def eat(n, populate=0):
    m = mmap.mmap(-1, n, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for i in range(0, n, 4096): m[i] = 1
    return m
def inside(group, f):
    r, w = os.pipe(); pid = os.fork()
    if pid == 0:
        os.close(r); wr(group + '/cgroup.procs', '0'); f(w); os._exit(0)
    os.close(w); return pid, r
def said(r): return os.read(r, 100).decode()
def ends(pid):
    s = os.waitpid(pid, 0)[1]; return 'signal %d' % os.WTERMSIG(s) if os.WIFSIGNALED(s) else 'exit %d' % os.WEXITSTATUS(s)
def near(x, want, slack=4 * M): return want - M <= x <= want + slack or x
def hold(n):
    def f(w):
        m = eat(n); os.write(w, b'held'); time.sleep(1000)
    return f
# What is charged, and given back.
pid, r = inside('a', hold(20 * M)); print(said(r), near(num('a/memory.current'), 20 * M), near(kv('a/memory.stat')['anon'], 20 * M), near(num('memory.current'), 20 * M))
os.mkdir('c'); print('moved', wr('c/cgroup.procs', str(pid)), near(num('a/memory.current'), 20 * M), num('c/memory.current') < 2 * M); os.kill(pid, 9); print(ends(pid))
time.sleep(.1); print('given back', num('a/memory.current') < 2 * M or num('a/memory.current'), near(num('a/memory.peak'), 20 * M)); os.rmdir('c')
# An eater is killed at the limit; its brothers beside it and in the next group live.
wr('a/memory.max', str(30 * M)); print(wr('a/memory.swap.max', '0')); small, r = inside('a', hold(4 * M)); said(r); other, r = inside('b', hold(40 * M)); said(r)
fd = os.open('a/memory.events', os.O_RDONLY); os.read(fd, 1000); poll = select.poll(); poll.register(fd, select.POLLPRI)
pid, r = inside('a', hold(100 * M)); print('eater', ends(pid)); print('told', bool(poll.poll(2000)))
e = kv('a/memory.events'); print(e['oom'] > 0, e['oom_kill'], e['max'] > 0, e['oom_group_kill'], kv('memory.events')['oom_kill'], kv('memory.events.local')['oom_kill'], kv('b/memory.events')['oom_kill'])
print('lives', os.waitpid(small, os.WNOHANG), os.waitpid(other, os.WNOHANG), num('a/memory.peak') <= 30 * M)
os.kill(small, 9); os.kill(other, 9); print(ends(small), ends(other))
# A limit above counts, too; the larger one goes.
wr('a/memory.max', 'max'); wr('memory.max', str(30 * M)); small, r = inside('b', hold(8 * M)); said(r); pid, r = inside('a', hold(100 * M)); print('above', ends(pid), os.waitpid(small, os.WNOHANG)); wr('memory.max', 'max'); os.kill(small, 9); ends(small)
# memory.oom.group: all go.
wr('a/memory.max', str(30 * M)); wr('a/memory.oom.group', '1'); before = kv('a/memory.events'); small, r = inside('a', hold(2 * M)); said(r); pid, r = inside('a', hold(100 * M)); print('group', ends(pid), ends(small)); e = kv('a/memory.events'); print(e['oom_group_kill'] - before['oom_group_kill'], e['oom_kill'] - before['oom_kill']); wr('a/memory.oom.group', '0')
# A limit that is lowered is enforced.
wr('a/memory.max', 'max'); pid, r = inside('a', hold(20 * M)); said(r); print('lowered', wr('a/memory.max', str(8 * M)), ends(pid)); wr('a/memory.max', 'max')
# Shared memory and tmpfs.
def tmpfs(w):
    fd = os.memfd_create('x'); os.write(fd, b'x' * (8 * M)); os.write(w, b'held'); time.sleep(1000)
pid, r = inside('a', tmpfs); print(said(r), near(kv('a/memory.stat')['shmem'], 8 * M)); os.kill(pid, 9); ends(pid); time.sleep(.1); print(kv('a/memory.stat')['shmem'] < M)
def too_much(w):
    fd = os.memfd_create('x')
    for i in range(64):
        try: os.write(fd, b'x' * M)
        except OSError: pass
    os.write(w, b'written')
wr('a/memory.max', str(24 * M)); pid, r = inside('a', too_much); print('tmpfs', ends(pid)); wr('a/memory.max', 'max')
# Slowed down above memory.high.
wr('a/memory.high', str(16 * M)); start = time.monotonic(); pid, r = inside('a', hold(20 * M)); ready = select.select([r], [], [], 3)[0]; print('high', bool(ready) and time.monotonic() - start < .3, kv('a/memory.events')['high'] > 0); os.kill(pid, 9); ends(pid); wr('a/memory.high', 'max')
# Fork and exec inside a limit; nothing leaks.
wr('a/memory.max', str(64 * M)); 
def forks(w):
    for _ in range(30):
        p = os.fork()
        if p == 0: os.execv('/bin/true', ['true'])
        os.waitpid(p, 0)
pid, r = inside('a', forks); print(ends(pid)); time.sleep(.1); print('nothing is left', kv('a/memory.stat')['anon'] < M or rd('a/memory.stat'), wr('a/memory.reclaim', 'x'))
P
rmdir a b; cd ..; rmdir t; cd ..; umount cg; rmdir cg
