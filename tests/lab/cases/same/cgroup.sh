# Control groups: the hierarchy and its rules, pids, freeze and kill.
#: timeout 120
cd /tmp && mkdir cg && mount -t cgroup2 none cg && cd cg || exit 1
echo "+cpu +memory +pids" > cgroup.subtree_control; r() { echo "$@: $(cat "$@" 2>&1 | tr '\n' ' ')"; }
mkdir t; ls -ld t | cut -c1-10; cd t; r cgroup.procs; r cgroup.type; r cgroup.events; r cgroup.stat; r cgroup.max.depth; r cgroup.subtree_control
sed 's/ io//' cgroup.controllers; ls -l cgroup.procs cgroup.kill pids.max pids.current memory.max cpu.stat 2>/dev/null | awk '{ print $1, $5, $9 }' | grep -v -e memory -e cpu
mkdir a a/b; echo "mkdir again: $(mkdir a 2>&1)"; r cgroup.stat; echo "rmdir: $(rmdir a 2>&1)"; test -e a/pids.max || echo "no pids in a"
w() { (/bin/echo "$1" > "$2") 2>&1 | sed 's/.*: //'; }
echo "not mine: $(w +pids a/cgroup.subtree_control)"; echo "unknown: $(w +nothing cgroup.subtree_control)"; echo "bad: $(w pids cgroup.subtree_control)"
w "+pids +memory" cgroup.subtree_control; r cgroup.subtree_control; r a/pids.max; r a/pids.current
w "+pids +memory" a/cgroup.subtree_control; echo "child has it: $(w -pids cgroup.subtree_control)"
sleep 1000 & p=$!; echo "inner: $(w $p a/cgroup.procs)"; w $p a/b/cgroup.procs; cat a/b/cgroup.procs | grep -c "^$p$"; sed 's/.*\/t\//t\//' /proc/$p/cgroup
r a/b/cgroup.events; r cgroup.events; r a/b/pids.current; r a/pids.current; echo "populated: $(rmdir a/b 2>&1)"; echo "no such: $(w 999999 a/b/cgroup.procs)"
echo "word: $(w hello a/b/cgroup.procs)"; echo "negative: $(w -1 a/b/cgroup.procs)"; grep -c "^$p$" a/b/cgroup.threads; echo "thread: $(w $p cgroup.threads)"
echo "type: $(w domain a/b/cgroup.type)"; echo "depth: $(w 0 a/b/cgroup.max.depth; mkdir a/b/c 2>&1)"; echo "many: $(w max a/b/cgroup.max.depth; w 0 a/b/cgroup.max.descendants; mkdir a/b/c 2>&1)"
echo "limit: $(w x a/b/cgroup.max.depth)$(w -1 a/b/cgroup.max.depth)$(w x a/b/pids.max)$(w -1 a/b/pids.max)"; echo "ro: $(w 1 a/b/pids.current)"; echo "wo: $(cat a/b/cgroup.kill 2>&1)"
echo "create: $(touch a/file 2>&1)"; echo "remove: $(rm a/cgroup.procs 2>&1)"; echo "rename: $(mv a/b a/c 2>&1 | sed 's/.*: //')"; echo "newline: $(mkdir 'a/x
y' 2>&1 | tail -n 1)"
python3 -u - $p <<'P'
import os, select, signal, sys, threading, time
p = int(sys.argv[1])
def rd(f): return open(f).read().split()
def wr(f, s):
    try: os.write(os.open(f, os.O_WRONLY), s.encode()); return 'ok'
    except OSError as e: return e.strerror
fd = os.open('a/b/cgroup.events', os.O_RDONLY); poll = select.poll(); poll.register(fd, select.POLLPRI)
def state(): return os.pread(fd, 100, 0).decode().split()
print(state(), poll.poll(0)); print('kill 2:', wr('a/b/cgroup.kill', '2')); print('kill:', wr('a/cgroup.kill', '1'))
while not any(e & select.POLLPRI for _, e in poll.poll(5000)): pass
print(state(), poll.poll(0))
# A fork bomb is held.
wr('a/b/cgroup.max.descendants', 'max'); wr('a/b/pids.max', '8')
def inside(f):
    pid = os.fork()
    if pid == 0:
        wr('a/b/cgroup.procs', '0'); f(); os._exit(0)
    return pid
def bomb():
    n = 0
    for _ in range(20):
        try:
            if os.fork() == 0: time.sleep(1000); os._exit(0)
            n += 1
        except BlockingIOError: pass
    open('/tmp/forked', 'w').write(str(n)); os._exit(0)
pid = inside(bomb); os.waitpid(pid, 0); print('forked', open('/tmp/forked').read(), rd('a/b/pids.current'), rd('a/b/pids.peak'), rd('a/b/pids.events'))
print('kill:', wr('a/b/cgroup.kill', '1'))
for _ in range(500):
    if rd('a/b/cgroup.events')[1] == '0': break
    time.sleep(.01)
print(rd('a/b/cgroup.events')); wr('a/b/pids.max', 'max'); print(rd('a/b/pids.max'))
# Threads count, and move with their process.
def threads():
    for _ in range(3): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    open('/tmp/ready', 'w').close(); time.sleep(1000)
pid = inside(threads)
while not os.path.exists('/tmp/ready'): time.sleep(.01)
print('threads', rd('a/b/pids.current'), len(rd('a/b/cgroup.threads')), len(rd('a/b/cgroup.procs')))
os.mkdir('a/c'); print(wr('a/c/cgroup.procs', str(pid)), rd('a/b/pids.current'), rd('a/c/pids.current'), rd('a/pids.current'), rd('a/b/cgroup.events')[:2])
# A zombie counts until it is waited for, but is no member.
wr('a/c/cgroup.kill', '1')
while rd('a/c/cgroup.events')[1] == '1': time.sleep(.01)
for _ in range(100):
    if rd('a/c/pids.current') == ['1']: break
    time.sleep(.01)
print('zombie', rd('a/c/pids.current'), rd('a/c/cgroup.procs')); os.rmdir('a/c'); print(open(f'/proc/{pid}/cgroup').read()[-11:]); os.waitpid(pid, 0)
# Freezing.
def spin():
    while True: os.getpid()
pid = inside(spin); sleeper = inside(lambda: time.sleep(1000)); time.sleep(.2)
fd = os.open('a/b/cgroup.events', os.O_RDONLY); state(); poll = select.poll(); poll.register(fd, select.POLLPRI)
print('freeze:', wr('a/cgroup.freeze', '1'), rd('a/b/cgroup.freeze'))
while state()[3] == '0': poll.poll(1000)
def ticks(): return open(f'/proc/{pid}/stat').read().split()[13:15]
before = ticks(); time.sleep(.3); print(state(), rd('a/cgroup.events'), ticks() == before)
print('thaw:', wr('a/cgroup.freeze', '0'))
while state()[3] == '1': poll.poll(1000)
time.sleep(.3); print(state(), ticks() != before, wr('a/cgroup.freeze', '2'))
print('killed while frozen:', wr('a/b/cgroup.freeze', '1'))
while state()[3] == '0': poll.poll(1000)
os.kill(pid, signal.SIGKILL); print(os.waitpid(pid, 0)[1]); os.kill(sleeper, signal.SIGTERM); print(os.waitpid(sleeper, 0)[1], wr('a/b/cgroup.freeze', '0'))
# A child made in a group.
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def clone_into(path, flags=0x200000000):
    d = os.open(path, os.O_RDONLY); a = (ctypes.c_uint64 * 11)(flags, 0, 0, 0, 17, 0, 0, 0, 0, 0, d)
    pid = libc.syscall(435, a, 88)
    if pid == 0: os._exit(0 if open('/proc/self/cgroup').read().endswith('/a/b\n') else 1)
    os.close(d); return os.waitpid(pid, 0)[1] if pid > 0 else os.strerror(ctypes.get_errno())
print('into', clone_into('a/b'), clone_into('a'), clone_into('/tmp'))
# A group is the root for who makes a namespace of groups in it.
def rooted():
    libc.unshare(0x02000000); print(open('/proc/self/cgroup').read().strip()); os.mkdir('/tmp/cg2'); libc.unshare(0x20000)
    libc.mount(None, b'/', None, 1 << 18 | 1 << 14, None); print(libc.mount(b'none', b'/tmp/cg2', b'cgroup2', 0, None)); print('cgroup.events' in os.listdir('/tmp/cg2'), open('/tmp/cg2/cgroup.procs').read().strip() == str(os.getpid()))
    print(open('/proc/1/cgroup').read()[:6])
os.mkdir('a/e'); pid = inside(rooted); os.waitpid(pid, 0); os.rmdir('a/e')
# A user to whom a subtree was given moves processes inside it only.
os.chown('a', 1000, 1000); os.chown('a/b/cgroup.procs', 1000, 1000); os.mkdir('d'); os.chown('d/cgroup.procs', 1000, 1000)
os.mkdir('a/e'); os.chown('a/e/cgroup.procs', 1000, 1000)
def user():
    os.setuid(1000); print('delegated', wr('a/e/cgroup.procs', str(os.getpid())), flush=True); os._exit(0)
pid = inside(user); os.waitpid(pid, 0); os.chown('a/cgroup.procs', 1000, 1000); pid = inside(user); os.waitpid(pid, 0)
def stray():
    os.setuid(1000); print('outside', wr('d/cgroup.procs', str(os.getpid())), flush=True); os.mkdir('a/f'); s = os.stat('a/f/cgroup.procs'); print(s.st_uid, s.st_gid); os._exit(0)
pid = inside(stray); os.waitpid(pid, 0); os.rmdir('a/f'); os.rmdir('a/e'); os.rmdir('d')
P
wait $p 2>/dev/null; rmdir a/b a; cd ..; rmdir t; ls -d t 2>&1; grep -c pids /proc/cgroups; grep cgroup2 /proc/filesystems; cd ..; umount cg; rmdir cg
