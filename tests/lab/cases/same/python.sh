# Python: threads, subprocess, multiprocessing, mmap, signal, tempfile, sockets by socketpair, select, json.
#: timeout 240
python3 - <<'PY'
import json, mmap, multiprocessing, os, queue, select, signal, socket, subprocess, sys, tempfile, threading, time

# threads
done = queue.Queue()
def work(n):
    done.put(sum(i * i for i in range(n)))
threads = [threading.Thread(target=work, args=(1000 * k,)) for k in range(1, 9)]
for t in threads: t.start()
for t in threads: t.join()
print("threads", sorted(done.get() for _ in threads))
lock, counter = threading.Lock(), [0]
def count():
    for _ in range(5000):
        with lock: counter[0] += 1
threads = [threading.Thread(target=count) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print("lock", counter[0])
event = threading.Event()
threading.Timer(0.1, event.set).start()
print("event", event.wait(10), threading.Event().wait(0.05))

# subprocess
print("run", subprocess.run(["tr", "a-z", "A-Z"], input=b"hello", capture_output=True))
p = subprocess.Popen(["sh", "-c", "echo out; echo err >&2; exit 5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
print("popen", p.communicate(), p.returncode)
try:
    subprocess.run(["sleep", "10"], timeout=0.2)
except subprocess.TimeoutExpired as e:
    print("timeout", type(e).__name__)
try:
    subprocess.run(["/no/such/program"])
except FileNotFoundError as e:
    print("missing", e)

# multiprocessing
def square(n): return n * n
if __name__ == "__main__":
    with multiprocessing.Pool(4) as pool:
        print("pool", pool.map(square, range(10)))
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.Process(target=lambda c: c.send([1, "two", 3.0]), args=(theirs,))
    child.start(); print("pipe", ours.recv()); child.join(); print("exit", child.exitcode)
    value = multiprocessing.Value("i", 0)
    def add(v):
        for _ in range(200):
            with v.get_lock(): v.value += 1
    children = [multiprocessing.Process(target=add, args=(value,)) for _ in range(4)]
    for c in children: c.start()
    for c in children: c.join()
    print("value", value.value)

# mmap
with tempfile.NamedTemporaryFile() as f:
    f.write(b"\0" * 8192); f.flush()
    with mmap.mmap(f.fileno(), 8192) as m:
        m[4090:4100] = b"0123456789"; m.flush()
    f.seek(4088); print("mmap", f.read(14))
with open("/usr/bin/perl", "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
    print("file mmap", m[:4], len(m))
shared = mmap.mmap(-1, 4096)
if os.fork() == 0:
    shared[:5] = b"child"; os._exit(9)
print("wait", os.WEXITSTATUS(os.wait()[1]), shared[:5])

# signal
signal.signal(signal.SIGUSR1, lambda number, frame: print("signal", number))
os.kill(os.getpid(), signal.SIGUSR1)
signal.signal(signal.SIGALRM, lambda number, frame: print("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.1); signal.pause()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR2); print("sigwait", signal.sigwait([signal.SIGUSR2]))

# tempfile and the file system
with tempfile.TemporaryDirectory() as d:
    path = os.path.join(d, "x")
    with open(path, "w") as f: json.dump({"a": [1, 2]}, f)
    os.rename(path, path + "y"); os.symlink("xy", path); os.link(path + "y", path + "z")
    print("dir", sorted(os.listdir(d)), open(path).read(), os.stat(path).st_nlink, os.readlink(path))
print("gone", os.path.exists(d))

# select, poll, epoll, eventfd
r, w = os.pipe()
print("select", select.select([r], [w], [], 0)[1] == [w])
epoll = select.epoll(); epoll.register(r, select.EPOLLIN)
print("epoll", epoll.poll(0.05)); os.write(w, b"x"); print("epoll", epoll.poll(1) == [(r, select.EPOLLIN)])
a, b = socket.socketpair(); a.sendall(b"ping"); print("socketpair", b.recv(10))
print("eventfd", os.eventfd_read(os.eventfd(3)))
start = time.monotonic(); time.sleep(0.2); print("sleep", 0.2 <= time.monotonic() - start < 5)
sys.exit(0)
PY
echo "python: $?"
python3 -c 'import sqlite3; c = sqlite3.connect("/tmp/x.db"); c.execute("create table t(a)"); c.executemany("insert into t values(?)", [(i,) for i in range(1000)]); c.commit(); print(c.execute("select sum(a) from t").fetchone())'
python3 -c 'import sys; sys.exit(42)'; echo $?
python3 -c 'raise ValueError("x")' 2>&1 | tail -n 1
