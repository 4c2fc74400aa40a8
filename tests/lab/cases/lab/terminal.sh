# An interactive bash on a terminal, driven by a script: line editing, Ctrl-C, Ctrl-Z and fg, resize, exit code.
#: timeout 240
cat > /tmp/drive.py <<'PY'
import fcntl, os, pty, re, select, signal, struct, sys, termios, time

def resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

def start(command):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "dumb"
        os.execvp(command[0], command)
    resize(fd, 30, 100)
    return pid, fd

seen = ""
def expect(fd, pattern, patience=40):
    """Reads until the pattern appears; returns what came before and with it."""
    global seen
    end = time.monotonic() + patience
    while True:
        found = re.search(pattern, seen)
        if found:
            before, seen = seen[:found.end()], seen[found.end():]
            return before
        ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
        try:
            data = os.read(fd, 65536) if ready else b""
        except OSError:
            data = b""
        if not data:
            sys.exit(f"FAIL: no {pattern!r}; the terminal shows {seen!r}")
        seen += data.decode(errors="replace")

def say(fd, text):
    os.write(fd, text.encode())

pid, fd = start(sys.argv[1:])
prompt = r"PROMPT> "
expect(fd, r"[#$] ")
say(fd, "PS1='PROMP''T> '\r"); expect(fd, prompt)
say(fd, "tty; stty size\r"); expect(fd, r"/dev/pts/\d+\r?\n30 100\r?\n"); expect(fd, prompt)
say(fd, "echo on\x7fne\x01: ; \x05 two\r"); expect(fd, r"\none two\r?\n|\ne two|\none  two"); expect(fd, prompt)
print("ok: line editing")
say(fd, "sleep 100\r"); time.sleep(2); say(fd, "\x03"); expect(fd, prompt)
say(fd, "echo code $?\r"); expect(fd, r"\ncode 130"); expect(fd, prompt)
print("ok: Ctrl-C")
say(fd, "sleep 77\r"); time.sleep(2); say(fd, "\x1a"); expect(fd, r"Stopped"); expect(fd, prompt)
say(fd, "jobs\r"); expect(fd, r"\[1\]\+\s+Stopped\s+sleep 77"); expect(fd, prompt)
say(fd, "fg\r"); expect(fd, r"\nsleep 77"); time.sleep(1); say(fd, "\x03"); expect(fd, prompt)
print("ok: Ctrl-Z and fg")
say(fd, "sleep 66 & jobs; kill %1; wait; echo waited\r"); expect(fd, r"Running\s+sleep 66"); expect(fd, r"\nwaited"); expect(fd, prompt)
print("ok: background job")
say(fd, "trap 'stty size' WINCH\r"); expect(fd, prompt)
# The size goes another way than the key: it has to be there first, or the trap prints after the prompt.
resize(fd, 41, 123); time.sleep(1); say(fd, "\r"); expect(fd, r"41 123"); expect(fd, prompt)
say(fd, "stty size\r"); expect(fd, r"\n41 123"); expect(fd, prompt)
print("ok: resize")
say(fd, "cat\r"); time.sleep(1); say(fd, "hello\r"); expect(fd, r"hello\r?\nhello"); say(fd, "\x04"); expect(fd, prompt)
print("ok: Ctrl-D ends cat")
say(fd, "stty raw -echo; head -c 3 | od -An -c; stty sane\r"); time.sleep(2); say(fd, "\x03\x04z"); expect(fd, r"003 +004 +z"); expect(fd, prompt)
print("ok: raw mode")
say(fd, "exit 9\r")
try:
    while os.read(fd, 65536): pass
except OSError:
    pass
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print("ok: exit code" if code == 9 else f"FAIL: exit code {code}")
sys.exit(code != 9)
PY
# The script itself must be right about a native bash.
python3 /tmp/drive.py native bash --norc > /tmp/native 2>&1 || { sed 's/^/natively: /' /tmp/native; exit 1; }
python3 /tmp/drive.py ringfence run --image /srv/debian.erofs --tty -- bash --norc || exit 1

# The same in a container of its own, which is gone at the end; and when its terminal goes away.
sock=/tmp/terminal.sock; rm -f $sock; mkfifo /tmp/terminal-hold
ringfence run --image /srv/debian.erofs --api-sock $sock -- sh -c 'echo ready; read line' < /tmp/terminal-hold > /tmp/terminal-main & main=$!
exec 9> /tmp/terminal-hold
for _ in $(seq 100); do grep -q ready /tmp/terminal-main && break; sleep 0.1; done
c() { ringfence container --sandbox $sock "$@"; }
echo '{"process": {"args": ["bash", "--norc"], "env": ["PATH=/usr/bin:/bin"]}}' > /tmp/terminal.json
python3 /tmp/drive.py ringfence container --sandbox $sock run t --spec /tmp/terminal.json --tty || exit 1
[ "$(c ls | wc -l)" = 2 ] && echo "ok: the container is gone" || { echo "FAIL: the container is still there"; exit 1; }
cat > /tmp/leave.py <<'PY'
import os, pty, sys
exec(open("/tmp/drive.py").read().split("pid, fd = start")[0])
pid, fd = start(sys.argv[1:])
expect(fd, r"[#$] ")
say(fd, "trap 'echo hung up > /dev/shm/seen' HUP; ps -o tty= -p $$; echo TERM=$TERM; sleep 100\r"); expect(fd, r"pts/0\r?\nTERM=dumb")
os.close(fd)
os.waitpid(pid, 0)
PY
python3 /tmp/leave.py ringfence container --sandbox $sock run t --spec /tmp/terminal.json --tty || exit 1
[ "$(c ls | wc -l)" = 2 ] && echo "ok: ended by the terminal's end" || { echo "FAIL: it lives without its terminal"; exit 1; }
expect-run 125 'needs a terminal on standard input' -- ringfence container --sandbox $sock run t --spec /tmp/terminal.json --tty < /dev/null || exit 1
echo '{"process": {"args": ["true"], "streams": {"tty": {"rows": 1, "cols": 1}}}}' > /tmp/terminal.json
expect-run 125 'use `run --tty`' -- ringfence container --sandbox $sock create t --spec /tmp/terminal.json || exit 1
echo >&9; exec 9>&-; wait $main
no-leftovers
