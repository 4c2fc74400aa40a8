# Several containers in one sandbox: each its own world, its own limits, its own end.
#: timeout 400
failed=0; check() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
sock=/tmp/containers.sock; rm -f $sock /tmp/c-*
c() { ringfence container --sandbox $sock "$@" < /dev/null; }
spec() { cat > "/tmp/c-$1.json"; }
state() { c ls --format json | python3 -c "import json,sys; print([x['state'] for x in json.load(sys.stdin) if x['container'] == '$1'])"; }

mkfifo /tmp/c-hold
ringfence run --image /srv/debian.erofs --memory 384M --hostname first --api-sock $sock -- \
    sh -c 'echo shared > /srv/note; mkdir /tmp/mine; mount -t tmpfs mine /tmp/mine; echo ready; read line; echo bye' < /tmp/c-hold > /tmp/c-main & main=$!
exec 9> /tmp/c-hold
for _ in $(seq 100); do grep -q ready /tmp/c-main && break; sleep 0.1; done

# Two containers that sleep, with an ipc object and an abstract socket in one.
spec a << 'EOF'
{"process": {"args": ["python3", "-c", "import socket,time\ns=socket.socket(socket.AF_UNIX)\ns.bind('\\0name')\ns.listen()\nprint('up',flush=True)\ntime.sleep(1000)"]}, "hostname": "host-a",
 "limits": {"memory": 67108864, "pids": 12}}
EOF
echo '{"process": {"args": ["sleep", "1000"], "user": "nobody"}, "root": {"base": "main"}}' | spec b
c create a --spec /tmp/c-a.json > /tmp/c-a.out; check "create" $? 0
check "created" "$(state a)" "['created']"
c exec a -- true 2> /tmp/c-err; check "exec before start" "$? $(cat /tmp/c-err)" "125 ringfence: container \`a\` is not running"
c start a; check "start" $? 0
c create b --spec /tmp/c-b.json; c start b; check "started" "$(state a)$(state b)" "['running']['running']"
for _ in $(seq 100); do grep -q up /tmp/c-a.out && break; sleep 0.1; done
check "its output is create's" "$(cat /tmp/c-a.out)" up

# Each sees itself only.
check "pids of a" "$(c exec a -- sh -c 'echo /proc/[0-9]*; tr "\0" " " < /proc/1/cmdline | cut -c1-7 | head -n 1' | tr '\n' ' ')" "/proc/1 /proc/2 python3 "
check "pids of b" "$(c exec b -- sh -c 'cat /proc/1/comm; kill -0 2; echo $?' 2>/dev/null | tr '\n' ' ')" "sleep 0 "
check "pids of main" "$(c exec main -- sh -c 'for p in /proc/[0-9]*; do read name < $p/comm; echo $name; done' | tr '\n' ' ')" "sh sh "
check "no pid of others" "$(c exec main -- sh -c 'kill -0 4194304; kill -0 4194305' 2>&1 | grep -c 'No such process')" 2
check "host names" "$(c exec a -- hostname) $(c exec b -- hostname) $(c exec main -- hostname)" "host-a b first"
check "mounts" "$(c exec a -- grep -c mine /proc/mounts) $(c exec b -- grep -c mine /proc/mounts) $(c exec main -- grep -c mine /proc/mounts)" "0 0 1"
check "files" "$(c exec a -- cat /srv/note 2>&1) $(c exec b -- cat /srv/note)" "cat: /srv/note: No such file or directory shared"
c exec a -- ipcmk -Q > /dev/null
check "ipc" "$(c exec a -- sh -c 'ipcs -q | grep -c 0x') $(c exec b -- sh -c 'ipcs -q | grep -c 0x') $(c exec main -- sh -c 'ipcs -q | grep -c 0x')" "1 0 0"
connect='import socket
try: socket.socket(socket.AF_UNIX).connect("\0name"); print("connected")
except OSError as e: print(e.strerror)'
check "abstract sockets" "$(c exec a -- python3 -c "$connect"), $(c exec b -- python3 -c "$connect"), $(c exec main -- python3 -c "$connect")" "connected, Connection refused, Connection refused"
check "/proc/net/unix" "$(c exec a -- grep -o -m 1 @name /proc/net/unix)$(c exec main -- grep -o @name /proc/net/unix)" @name
check "groups" "$(c exec a -- cat /proc/self/cgroup /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max | tr '\n' ' ')" "0::/ 12 67108864 "
check "groups of main" "$(c exec main -- sh -c 'ls -d /sys/fs/cgroup/*/' 2>&1 | grep -c 'No such file')" 1
check "users" "$(c exec b --user nobody -- sh -c 'id -un; cat /proc/1/status' | grep -E 'nobody|^Uid' | tr -s '\t\n' ' ')" "nobody Uid: 65534 65534 65534 65534 "
c exec a -- sh -c 'touch /dev/mine' ; check "/dev" "$(c exec a -- ls /dev/mine) $(c exec main -- ls /dev/mine 2>&1)" "/dev/mine ls: cannot access '/dev/mine': No such file or directory"

# exec joins, with its own streams, code and signals.
check "exec joins" "$(c exec a -- sh -c 'for n in cgroup ipc mnt net pid uts; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; exit 7'; echo $?)" 7
check "exec's streams" "$(echo from here | ringfence container --sandbox $sock exec a -- sh -c 'cat; echo err >&2' 2>&1 | tr '\n' ' ')" "from here err "
ringfence container --sandbox $sock exec a -- sh -c 'trap "echo got it; exit 3" TERM; echo up; while :; do sleep 0.1; done' < /dev/null > /tmp/c-exec & pid=$!
for _ in $(seq 100); do grep -q up /tmp/c-exec && break; sleep 0.1; done
kill -TERM $pid; wait $pid; check "signals to exec" "$? $(tail -n 1 /tmp/c-exec)" "3 got it"
check "killed in exec" "$(c exec a -- sh -c 'kill -9 $$'; echo $?)" 137
c exec a -- no-such-program 2> /tmp/c-err; check "no program" "$? $(cut -c1-48 /tmp/c-err)" "127 ringfence: there is no program \`no-such-program\`"

# Limits hold, for a only.
eat='head -c 90M /dev/zero | tail -c 80M | wc -c'
check "memory" "$(c exec a -- sh -c "$eat" 2>/dev/null) $(c exec b -- sh -c "$eat")" "0 83886080"
check "pids" "$(c exec a -- sh -c 'for n in $(seq 20); do sleep 2 & done' 2>&1 | cut -d: -f3)" " Cannot fork"
spec slow << 'EOF'
{"process": {"args": ["sh", "-c", "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; grep nr_throttled /sys/fs/cgroup/cpu.stat"]},
 "limits": {"cpu": {"quota_us": 20000, "period_us": 100000}}}
EOF
check "cpu" "$(c run slow --spec /tmp/c-slow.json | awk '{ print ($2 > 0) }')" 1

# The end of one is the end of all in it, and of nothing else.
ringfence container --sandbox $sock exec a -- sleep 1000 < /dev/null & pid=$!
sleep 0.3; c kill a KILL; wait $pid; check "exec ends with it" $? 137
c wait a; check "its code" "$? $(state a)$(state b)" "137 [{'stopped': {'signal': 9}}]['running']"
c exec a -- true 2> /dev/null; check "exec after the end" $? 125
c rm b 2> /tmp/c-err; check "rm while running" "$? $(cut -c1-35 /tmp/c-err)" "125 ringfence: container \`b\` is running"
c rm a; check "rm" "$? $(state a)" "0 []"
c create a --spec /tmp/c-b.json && c start a; check "the name again" "$(c exec a -- cat /proc/1/comm)" sleep
check "main lives" "$(c exec main -- cat /proc/1/comm)" sh

# A user namespace of its own: root inside is nobody special outside, and exec lands in it.
maps='"uid_map": [{"inside": 0, "outside": 100000, "count": 60000}, {"inside": 65534, "outside": 5, "count": 1}], "gid_map": [{"inside": 0, "outside": 200000, "count": 65535}]'
echo '{"process": {"args": ["sleep", "1000"]}, '"$maps"'}' | spec u
c create u --spec /tmp/c-u.json; c start u
check "uid_map" "$(c exec u -- cat /proc/self/uid_map /proc/1/gid_map /proc/self/setgroups | tr -s ' \n' ' ')" " 0 100000 60000 65534 5 1 0 200000 65535 allow "
check "ids inside" "$(c exec u -- sh -c 'id; stat -c "%u %g" /etc/passwd / /dev /dev/null /dev/shm /proc/1; touch /srv/f; stat -c %u /srv/f; grep -E "CapEff|CapBnd" /proc/1/status' | tr -s '\t\n' ' ')" \
    "uid=0(root) gid=0(root) groups=0(root) 0 0 0 0 0 0 0 0 0 0 0 0 0 CapEff: 000001ffffffffff CapBnd: 000001ffffffffff "
check "users inside" "$(c exec u --user daemon -- sh -c 'id; grep CapEff /proc/self/status; cat /etc/shadow; kill -0 1; su --version' 2>&1 | grep -v util-linux | tr -s '\t\n' ' ')" \
    "uid=1(daemon) gid=1(daemon) groups=1(daemon) CapEff: 0000000000000000 cat: /etc/shadow: Permission denied sh: 1: kill: Operation not permitted "
check "exec joins its user namespace" "$(c exec u -- sh -c 'for n in cgroup ipc mnt net pid user uts; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; echo end')" end
check "another one than main's" "$([ "$(c exec u -- readlink /proc/self/ns/user)" != "$(c exec main -- readlink /proc/self/ns/user)" ]; echo $?)" 0
check "its namespaces are its own" "$(c exec u -- sh -c 'hostname changed && hostname; mount -t tmpfs x /mnt && echo mounted; mount -t proc x /mnt && echo proc; ipcmk -Q > /dev/null && echo ipc; mkdir /sys/fs/cgroup/below && echo group; unshare -n true && echo net; ionice -c 3 true && echo idle; setpriv --reuid 3 --regid 3 --clear-groups id -u' 2>&1 | tr '\n' ' ')" \
    "changed mounted proc ipc group net idle 3 "
check "nothing outside" "$(c exec u -- sh -c 'mknod /srv/n c 1 3; date -s 2020-01-01 > /dev/null; nice -n -5 true; sysctl -w vm.overcommit_memory=1; chown 61000 /srv/f' 2>&1 | grep -ciE 'not permitted|permission denied|invalid argument')" 5
check "set-user-ID inside" "$(c exec u -- sh -c 'cp /usr/bin/id /srv/id; chmod 4755 /srv/id; setpriv --reuid 3 --regid 3 --clear-groups /srv/id -u')" 0
check "a terminal is its user's" "$(python3 -c 'import pty,sys; pty.spawn(sys.argv[1:])' ringfence container --sandbox $sock exec u --user 7:7 --tty -- sh -c 'stat -c "%u %g %a" $(tty); : < $(tty) && echo opened' < /dev/null | tr '\r\n' '  ' | tr -s ' ')" "7 5 620 opened "
c kill u KILL; c rm u
echo '{"process": {"args": ["sh", "-c", "stat -c %u:%g /srv/note /etc/passwd; echo x > /srv/note; touch /tmp/of-u; stat -c %u:%g /tmp/of-u"]}, "root": {"base": "main"}, '"$maps"'}' | spec u
check "shared files are seen through the map" "$(c run u --spec /tmp/c-u.json 2>&1 | tr '\n' ' ') $(c exec main -- stat -c %u:%g /tmp/of-u)" "65534:65534 65534:65534 sh: 1: cannot create /srv/note: Permission denied 0:0  100000:200000"
echo '{"process": {"args": ["id", "-u"], "user": "60000"}, '"$maps"'}' | spec u
check "a user without an id" "$(c run u --spec /tmp/c-u.json 2>&1)" "ringfence: user 60000 has no id in the container's uid_map"
check "a whole sandbox" "$(ringfence run --image /srv/debian.erofs --uidmap 0:1000:10 --gidmap 0:1000:10 -- sh -c 'tr -s " " < /proc/self/uid_map; id -u; echo $$; stat -c %u /etc/passwd; hostname x && hostname; mknod /n c 1 3 2>&1 | grep -c permitted; exit 5' < /dev/null; echo $?)" " 0 1000 10
0
1
0
x
1
5"

# run is all in one.
echo '{"process": {"args": ["sh", "-c", "echo out; exit 9"]}, "root": {"base": "image"}}' | spec r
check "run" "$(c run r --spec /tmp/c-r.json; echo $?) $(state r)" "out
9 []"
for n in $(seq 5); do c run r$n --spec /tmp/c-r.json > /dev/null; [ $? = 9 ] || failed=1; done
check "no traces" "$(c ls | wc -l)" 4

# What makes no sense is said.
bad() { printf '%s' "$2" > /tmp/c-bad.json; c create "${3:-x}" --spec /tmp/c-bad.json 2> /tmp/c-err; check "$1" "$? $(grep -c "$4" /tmp/c-err)" "${5:-125} 1"; }
bad "not JSON" '{' x 'does not describe a container'
bad "unknown field" '{"process": {"args": ["true"]}, "limit": 1}' x 'unknown field `limit`'
bad "a name" '{"process": {"args": ["true"]}}' 'x y' 'name has 1 to 64 letters'
bad "a taken name" '{"process": {"args": ["true"]}}' main 'already'
bad "no program" '{"process": {"args": []}}' x 'no program was given'
bad "memory" '{"process": {"args": ["true"]}, "limits": {"memory": 1}}' x 'at least 1 MiB'
bad "cpu" '{"process": {"args": ["true"]}, "limits": {"cpu": {"quota_us": 1, "period_us": 1}}}' x 'period of CPU time'
bad "maps that overlap" '{"process": {"args": ["true"]}, "uid_map": [{"inside": 0, "outside": 0, "count": 5}, {"inside": 4, "outside": 9, "count": 1}], "gid_map": [{"inside": 0, "outside": 0, "count": 1}]}' x 'ranges 0:0:5 and 4:9:1 overlap'
bad "one map alone" '{"process": {"args": ["true"]}, "uid_map": [{"inside": 0, "outside": 0, "count": 5}]}' x 'gid_map is empty'
bad "no ids in a range" '{"process": {"args": ["true"]}, "uid_map": [{"inside": 0, "outside": 0, "count": 0}], "gid_map": []}' x 'count is 0'
bad "ids beyond the last" '{"process": {"args": ["true"]}, "uid_map": [{"inside": 9, "outside": 4294967290, "count": 9}], "gid_map": []}' x 'beyond the last id'
bad "too many ranges" "$(python3 -c 'import json; m = [{"inside": n, "outside": n, "count": 1} for n in range(341)]; print(json.dumps({"process": {"args": ["true"]}, "uid_map": m, "gid_map": m}))')" x '341 ranges'
bad "root" '{"process": {"args": ["true"]}, "root": {"path": "/nowhere"}}' x 'cannot use `/nowhere`'
bad "user" '{"process": {"args": ["true"], "user": "eve"}}' x 'no user `eve`'
bad "program" '{"process": {"args": ["/bin/nothing"]}}' x 'no program `/bin/nothing`' 127
bad "ports" '{"process": {"args": ["true"], "streams": {"pipes": {"stdin": 5}}}}' x 'ports are not for clients'
c start nobody 2> /tmp/c-err; check "no container" "$? $(cat /tmp/c-err)" "125 ringfence: there is no container \`nobody\`"
python3 - $sock << 'EOF' || failed=1
import json, socket, sys
def talk(data):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
    try: s.sendall(data); s.shutdown(socket.SHUT_WR)
    except BrokenPipeError: pass
    return s.makefile().read()
for data, status in [(b'garbage\r\n\r\n', '400'), (b'GET / HTTP/1.1\r\nX: ' + b'x' * (1 << 20), '431'), (b'GET /fly HTTP/1.1\r\n\r\n', '404')]:
    answer = talk(data)
    assert answer.split()[1] == status and 'fault_message' in answer, answer
many = talk(b'GET /containers HTTP/1.1\r\n\r\n' * 50)
assert many.count('HTTP/1.1 200') == 50, many
print('ok: the socket itself')
EOF

# The first container ends the sandbox.
ringfence container --sandbox $sock wait b < /dev/null 2> /dev/null & pid=$!
sleep 0.5; echo >&9; exec 9>&-; wait $main; check "main's end" "$? $(tail -n 1 /tmp/c-main)" "0 bye"
wait $pid; check "who waits is told" $? 121
check "the socket is gone" "$(ls $sock 2>&1 | grep -c 'No such file')" 1
no-leftovers || failed=1
exit $failed
