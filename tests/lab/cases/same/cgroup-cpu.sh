# Control groups: shares of a CPU by weight, quotas, what cpu.stat says.
#: timeout 120
cd /tmp && mkdir cg && mount -t cgroup2 none cg && cd cg || exit 1
echo "+cpu" > cgroup.subtree_control; mkdir t; echo "+cpu" > t/cgroup.subtree_control; cd t; mkdir a b
r() { echo "$@: $(cat "$@" 2>&1 | tr '\n' ' ')"; }; w() { (/bin/echo "$1" > "$2") 2>&1 | sed 's/.*: //'; }
r a/cpu.weight; r a/cpu.weight.nice; r a/cpu.max; r a/cpu.max.burst; r a/cpu.idle; sed 's/[0-9]*$//' a/cpu.stat; sed -n 1,3p ../cpu.stat | sed 's/[0-9]*$//'
for v in 0 10001 x 1 10000 300; do echo "weight $v: $(w $v a/cpu.weight) $(cat a/cpu.weight a/cpu.weight.nice | tr '\n' ' ')"; done
for v in -21 20 -20 19 5 0; do echo "nice $v: $(w $v a/cpu.weight.nice) $(cat a/cpu.weight a/cpu.weight.nice | tr '\n' ' ')"; done
for v in "999 100000" "1000" "max 999" "20000 1000001" "x" "max" "20000 50000" "30000" "max 100000"; do echo "max $v: $(w "$v" a/cpu.max) $(cat a/cpu.max)"; done
w "20000" a/cpu.max; echo "burst: $(w 30000 a/cpu.max.burst) $(w 10000 a/cpu.max.burst) $(cat a/cpu.max.burst) $(w 5000 a/cpu.max)"; w 0 a/cpu.max.burst; w max a/cpu.max
echo "idle: $(w 2 a/cpu.idle) $(w 1 a/cpu.idle) $(cat a/cpu.idle a/cpu.weight | tr '\n' ' ') $(w 100 a/cpu.weight) $(w 0 a/cpu.idle) $(cat a/cpu.weight)"
python3 -u - <<'P'
import os, signal, time
def rd(f): return open(f).read()
def wr(f, s): os.write(os.open(f, os.O_WRONLY), s.encode())
os.sched_setaffinity(0, {0})
def spin(group):
    pid = os.fork()
    if pid == 0:
        wr(group + '/cgroup.procs', '0')
        while True: pass
    return pid
def stat(group): return {k: int(v) for k, v in (l.split() for l in rd(group + '/cpu.stat').splitlines())}
def used(groups, seconds):
    time.sleep(.3); before = [stat(g) for g in groups]; start = time.monotonic(); time.sleep(seconds); after = [stat(g) for g in groups]; took = time.monotonic() - start
    return [(a['usage_usec'] - b['usage_usec']) / 1e6 / took for a, b in zip(after, before)]
def end(pids):
    for p in pids: os.kill(p, signal.SIGKILL); os.waitpid(p, 0)
def about(x, want, share=.25): return abs(x - want) <= want * share or x
# Weights.
wr('a/cpu.weight', '100'); wr('b/cpu.weight', '300'); pids = [spin('a'), spin('b')]
a, b = used('ab', 2); print('1:3', about(b / a, 3)); end(pids)
pids = [spin('a') for _ in range(3)] + [spin('b')]; a, b = used('ab', 2); print('1:3 with three in one', about(b / a, 3)); end(pids)
wr('b/cpu.weight', '100'); os.mkdir('b/c'); os.mkdir('b/d'); wr('b/cgroup.subtree_control', '+cpu'); wr('b/c/cpu.weight', '400')
pids = [spin('a'), spin('b/c'), spin('b/d')]; a, b, c, d = used(['a', 'b', 'b/c', 'b/d'], 2); print('1:1, below it 4:1', about(b / a, 1), about(c / d, 4, .35)); end(pids)
pids = [spin('a')]; wr('a/cpu.weight', '1'); a, = used('a', 1); print('alone', a > .7 or a); end(pids); wr('a/cpu.weight', '100')
# Quotas.
wr('a/cpu.max', '20000 100000'); pids = [spin('a'), spin('a')]; before = stat('a'); a, = used('a', 2); after = stat('a')
print('20%', about(a, .2, .3), after['nr_throttled'] - before['nr_throttled'] > 10, after['throttled_usec'] - before['throttled_usec'] > 1000000, after['nr_periods'] - before['nr_periods'] > 10)
wr('a/cpu.max', 'max'); a, = used('a', 1); print('no quota', a > .7 or a); end(pids)
wr('b/cpu.max', '30000 100000'); wr('b/d/cpu.max', '10000 100000'); pids = [spin('b/c'), spin('b/d')]; b, d = used(['b', 'b/d'], 2); print('30%, below it 10%', about(b, .3, .3), d < .13 or d); end(pids)
# A throttled process can be killed, and another group goes on.
wr('b/cpu.max', 'max'); wr('a/cpu.max', '1000 1000000'); pids = [spin('a'), spin('b/c')]; a, c = used(['a', 'b/c'], 1.5); print('throttled', a < .1 or a, 'other', c > .7 or c); end(pids)
P
rmdir b/c b/d a b; cd ..; rmdir t; cd ..; umount cg; rmdir cg
