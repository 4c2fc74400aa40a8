# The API and its clients: find a sandbox by name, run programs in it, watch it, end it; describe one and start it.
#: timeout 600
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
image=/srv/debian.erofs; sock=/tmp/api.sock; rm -f $sock
cat > /tmp/a-call.py << 'EOF'
import http.client, socket, sys
where, method, path = sys.argv[1:4]
connection = http.client.HTTPConnection("x")
connection.sock = socket.socket(socket.AF_UNIX); connection.sock.connect(where)
connection.request(method, path, *sys.argv[4:5])
open("/tmp/a-asked", "w").close()
answer = connection.getresponse()
print(answer.read().decode().strip(), answer.status)
EOF
call() { python3 /tmp/a-call.py "${socket:-/run/ringfence/web/api.sock}" "$@" | tr -d '\n'; }
wait_for() { for _ in $(seq 200); do eval "$1" && return; sleep 0.1; done; echo "never: $1"; failed=1; }

# Without being asked for there is nothing.
ringfence run --image $image -- sleep 100 < /dev/null & plain=$!
wait_for '[ -n "$(pgrep -x ringfence-vmm)" ]'; sleep 1
check "no socket" "$(find /run/ringfence -type s | wc -l)" 0
check "no thread" "$(ls /proc/$plain/task | wc -l)" 1
check "no descriptor" "$(readlink /proc/$plain/fd/* | grep -c epoll)" 0
check "ps knows the name alone" "$(ringfence ps | tail -n 1 | tr -s ' ')" "[0-9a-f-]+ - "
kill $plain; wait $plain 2> /dev/null

ringfence run --image $image --name web --memory 256M --loglevel info -- sh -c 'trap "exit 7" TERM; echo up; while :; do sleep 0.1; done' > /tmp/a-out 2> /tmp/a-err < /dev/null & web=$!
wait_for 'grep -q up /tmp/a-out'
check "mode of the socket" "$(stat -c %a /run/ringfence/web/api.sock)" 600
check "no thread with one, either" "$(ls /proc/$web/task | wc -l)" 1
check "ps" "$(ringfence ps | tail -n 1 | tr -s ' ')" "web running $web [0-9]+s 1 256M sh -c .*"
check "ps in JSON" "$(ringfence ps --format json | python3 -c 'import json,sys; print([(s["name"], s["instance"]["state"]) for s in json.load(sys.stdin)])')" ".\('web', 'running'\)."
check "exec" "$(echo from here | ringfence exec web -- sh -c 'cat; echo err >&2; exit 5' 2>&1; echo $?)" "from here
err
5"
check "exec of nothing" "$(ringfence exec web -- no-such-program 2>&1 | cut -c1-37; ringfence exec web -- no-such-program 2> /dev/null; echo $?)" "ringfence: there is no program \`no-su
127"
ringfence exec web -- sh -c 'trap "echo got it; exit 3" USR1; echo up; while :; do sleep 0.1; done' < /dev/null > /tmp/a-exec & pid=$!
wait_for 'grep -q up /tmp/a-exec'; kill -USR1 $pid; wait $pid
check "signals to exec" "$? $(tail -n 1 /tmp/a-exec)" "3 got it"
check "stats" "$(ringfence stats web --format json | python3 -c 'import json,sys; s=json.load(sys.stdin); print(s["state"], s["guest"]["page_faults"] > 0, s["memory"]["guest_touched"] > 0, s["devices"]["vsock"]["tx_bytes"] > 0)')" "running True True True"
check "metrics" "$(ringfence stats web --format prometheus | grep -c '^ringfence_\(state{state="running"} 1\|kernel_page_faults_total [1-9]\|vsock_tx_bytes_total [1-9]\)')" 3
check "logs" "$(ringfence logs web | grep -c 'the sandbox is running')" 1
ringfence logs web --follow > /tmp/a-follow & follow=$!

# Plain HTTP.
check "a program without streams" "$(call POST /containers/main/exec '{"args":["sh","-c","exit 9"]}')" '\{"process":[0-9]+,"pid":[0-9]+\} 201'
check "unknown field" "$(call POST /containers/main/exec '{"args":["true"],"arg":1}')" '.*unknown field `arg`.* 400'
check "wrong state" "$(call POST /start)" '\{"fault_message":"the sandbox is running"\} 409'
check "wrong method" "$(call PATCH /config)" '.*this path has GET, PUT.* 405'
check "no container" "$(call POST /containers/nobody/start)" '.*no container.*,"errno":3\} 404'
check "the file" "$(call GET /openapi.yaml | cut -c1-20)" "# The API of a sandb"
cat > /tmp/a-streams.py << 'EOF'
import json, socket, struct, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
body = json.dumps({"args": ["sh", "-c", "sort; echo err >&2; kill -TERM $$; sleep 1"]}).encode()
s.sendall(b"POST /containers/main/exec HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: ringfence-streams\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
f = s.makefile("rb")
assert b" 101 " in f.readline()
while f.readline().strip(): pass
lines = sorted(b"%06d" % n for n in range(40000))
text = b"\n".join(reversed(lines)) + b"\n"
got = {1: b"", 2: b""}
import threading
def feed():
    for at in range(0, len(text), 50000):
        piece = text[at:at + 50000]
        s.sendall(struct.pack(">B3xI", 0, len(piece)) + piece)
    s.sendall(struct.pack(">B3xI", 0, 0))
threading.Thread(target=feed).start()
while True:
    kind, length = struct.unpack(">B3xI", f.read(8)); data = f.read(length)
    if kind == 4: break
    got[kind] += data
assert got[1] == b"\n".join(lines) + b"\n" and got[2] == b"err\n", (len(got[1]), got[2])
print(data.decode())
EOF
check "streams by frames" "$(python3 /tmp/a-streams.py /run/ringfence/web/api.sock 2>&1)" '\{"signal":15\}'

# It stands still, and goes on: time has gone on, nothing is lost, and who asks meanwhile is told.
ringfence exec web -- sh -c 'n=0; while [ $n -lt 200 ]; do n=$((n+1)); echo $n; sleep 0.02; done' < /dev/null > /tmp/a-count & counter=$!
wait_for '[ -s /tmp/a-count ]'
check "pause" "$(ringfence pause web; echo $?)" 0
before=$(wc -l < /tmp/a-count); cpu() { awk '{ print $14 + $15 }' /proc/$(pgrep -x ringfence-vmm)/stat; }; used=$(cpu); sleep 1
check "it stands still" "$(wc -l < /tmp/a-count) $(($(cpu) - used < 5))" "$before 1"
check "state when paused" "$(ringfence ps | tail -n 1 | tr -s ' ' | cut -d' ' -f2)" paused
check "exec when paused" "$(ringfence exec web -- true 2>&1; echo $?)" "ringfence: the sandbox is paused; resume it first
125"
check "pause when paused" "$(call POST /pause)" '.*the sandbox is paused.* 409'
check "stats when paused" "$(ringfence stats web --format json | python3 -c 'import json,sys; s=json.load(sys.stdin); print(s["state"], s["guest"])')" "paused None"
check "resume" "$(ringfence resume web; echo $?)" 0
check "resume when running" "$(ringfence resume web 2>&1)" 'ringfence: the sandbox is running'
wait_for "[ \$(wc -l < /tmp/a-count) -gt $before ]"; check "it goes on" $? 0
for _ in $(seq 10); do ringfence pause web && ringfence resume web || failed=1; done
wait $counter; check "no line is lost" "$? $(cmp /tmp/a-count <(seq 200) && echo same)" "0 same"

# The end.
rm -f /tmp/a-asked; call GET /wait > /tmp/a-wait & waiter=$!; wait_for '[ -e /tmp/a-asked ]'; sleep 0.5
ringfence kill web; wait $web; check "kill" $? 7
wait $waiter; check "who waits is told" "$(cat /tmp/a-wait)" '\{"code":7,"message":null\} 200'
wait $follow; check "who follows, too" "$? $(grep -c 'the sandbox is stopped' /tmp/a-follow)" "0 1"
check "exec after the end" "$(ringfence exec web -- true 2>&1; echo $?)" "ringfence: cannot connect to a sandbox at /run/ringfence/web/api.sock: .*
125"

# One that hangs is ended.
ringfence run --image $image --api-sock $sock -- sh -c 'trap "" TERM; echo up; sleep 1000' > /tmp/a-out 2>/dev/null < /dev/null & hang=$!
wait_for 'grep -q up /tmp/a-out'
socket=$sock; check "shutdown" "$(call POST /shutdown '{"timeout_ms": 200}')" ' 204'
wait $hang; check "ended" "$? $(ls $sock 2>&1 | grep -c 'No such')" "137 1"

# One that stands still, too, at once.
ringfence run --image $image --api-sock $sock -- sh -c 'echo up; sleep 1000' > /tmp/a-out 2>/dev/null < /dev/null & still=$!
wait_for 'grep -q up /tmp/a-out'; ringfence pause $sock; call POST /shutdown > /dev/null; wait $still; check "shutdown when paused" $? 137

# Without a jail.
rm -f /tmp/a-hold; mkfifo /tmp/a-hold
ringfence run --no-jail --image $image --api-sock $sock -- sh -c 'read line; exit 4' 2>/dev/null < /tmp/a-hold & bare=$!
exec 9> /tmp/a-hold
wait_for '[ -S $sock ]'; wait_for 'call GET / | grep -q running'
check "exec without a jail" "$(ringfence exec $sock -- echo hello)" hello
check "stats without a jail" "$(ringfence stats $sock | head -n 1 | tr -s ' ')" "state running"
exec 9>&-; wait $bare; check "its code" $? 4

# Described over the API, or in a file.
ringfence serve --api-sock $sock > /tmp/a-out < /dev/null & serve=$!
wait_for '[ -S $sock ]'
check "nothing described" "$(call POST /start)" '.*no image, or no container.* 409'
check "machine" "$(call PUT /config/machine '{"cpus":2,"memory":134217728}')" ' 204'
check "no such image" "$(call PUT /config/image '{"file":"/nowhere"}') $(call PUT /config/container '{"process":{"args":["sh","-c","nproc; echo $0; exit 6","zero"]}}') $(call POST /start)" ' 204  204 .*no image at /nowhere.* 422'
check "state" "$(call GET /)" '.*"state":"configuring".* 200'
check "image" "$(call PUT /config/image '{"file":"/srv/debian.erofs"}')" ' 204'
check "start" "$(call POST /start)" ' 204'
wait $serve; check "its end" "$? $(tr '\n' ' ' < /tmp/a-out)" "6 2 zero "
cat > /tmp/a-config.json << 'EOF'
{"machine": {"memory": 134217728}, "image": {"file": "/srv/debian.erofs"}, "boot": {"timeout_ms": 60000},
 "container": {"process": {"args": ["sh", "-c", "hostname; pwd; exit 8"], "cwd": "/srv"}, "hostname": "filed"}, "jail": {"host_memory": 536870912}}
EOF
check "a file" "$(ringfence run --config-file /tmp/a-config.json < /dev/null | tr '\n' ' '; echo ${PIPESTATUS[0]})" "filed /srv 8"
echo '{"image": {"file": "x"}, "contaner": 1}' > /tmp/a-bad.json
check "a wrong file" "$(ringfence run --config-file /tmp/a-bad.json 2>&1; echo $?)" 'ringfence: /tmp/a-bad.json does not describe a sandbox: unknown field `contaner`.*
125'
check "a file and options" "$(ringfence run --config-file /tmp/a-config.json --cpus 2 > /dev/null 2>&1; echo $?)" 125
no-leftovers || failed=1
exit $failed
