# What can be set while a sandbox runs: its balloon, limits of disks and of the random device, levels of logs.
#: timeout 300
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
MIB=$((1 << 20))
truncate -s 64M /tmp/disk
id=$(ringfence run -d --name set --memory 256M --disk /tmp/disk --image /srv/debian.erofs -- sh -c 'exec sleep inf')
check "it runs" "$id" set
balloon() { ringfence balloon set "$@" | tr '\n' ' '; }
actual() { balloon | sed 's/.*actual \([0-9]*\).*/\1/'; }
free() { ringfence exec set -- awk '/^MemFree/ { print int($2 / 1024) }' /proc/meminfo; }
reaches() { for _ in $(seq 100); do [ "$(actual)" "$1" "$2" ] && return; sleep 0.1; done; echo "never $1 $2: $(balloon)"; failed=1; }
check "a balloon at first" "$(balloon)" "target 0 actual 0 "
before=$(free)

# The guest gives up what it was asked for, and does not use it.
balloon 100M; reaches -eq $((100 * MIB))
check "a balloon of 100 MiB" "$(balloon)" "target $((100 * MIB)) actual $((100 * MIB)) "
check "it is not free inside" "$((before - $(free) >= 98))" 1
check "counters" "$(ringfence stats set --format json | python3 -c 'import json,sys; print(json.load(sys.stdin)["balloon"])')" ".*'target': 104857600, 'actual': 104857600.*"
check "metrics" "$(ringfence stats set --format prometheus | grep '^ringfence_balloon_actual_bytes')" "ringfence_balloon_actual_bytes 104857600"
balloon 50M; reaches -eq $((50 * MIB)); check "less" "$((before - $(free) < 60))" 1
balloon 100M; reaches -eq $((100 * MIB))

# A program that needs the memory gets it; nobody is killed, and the host is told.
cat > /tmp/eat.py << 'P'
import mmap, sys
m = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(m), 4096):
    m[at:at + 8] = at.to_bytes(8, 'little')
for at in range(0, len(m), 4096):
    assert m[at:at + 8] == at.to_bytes(8, 'little') and m[at + 8:at + 4096] == bytes(4088), at
print('whole')
P
check "a program takes what it needs" "$(ringfence exec set -- python3 -c "$(cat /tmp/eat.py)" 180)" whole
check "the balloon has shrunk" "$(($(actual) < 100 * MIB && $(actual) > 0)) $(ringfence logs set | grep -c 'Out of memory')" "1 0"
balloon 0; reaches -eq 0; check "nothing" "$(balloon)" "target 0 actual 0 "
check "all of it is back" "$(ringfence exec set -- python3 -c "$(cat /tmp/eat.py)" 200)" whole

# All of it is more than it can give: it gives what it can, and lives.
balloon 256M; reaches -gt $((150 * MIB)); sleep 1
check "not all" "$(($(actual) < 250 * MIB))" 1
check "it lives" "$(ringfence exec set -- python3 -c "$(cat /tmp/eat.py)" 100)" whole
check "too much" "$(ringfence balloon set 257M 2>&1; echo $?)" "ringfence: the sandbox has 268435456 bytes of memory
125"
balloon 0; reaches -eq 0

# Limits of a disk: 2 MiB at 1 MiB a second, of which the first second's worth comes at once.
read_at() { ringfence exec set -- python3 -c "
import os, time
d = os.open('/dev/vda', os.O_RDONLY); start = time.monotonic()
for n in range(int('$2')): os.pread(d, 65536, (int('$1') << 20) + n * 65536)
print(int(1000 * (time.monotonic() - start)))"; }
check "a limit" "$(ringfence update set --disk-limits 0,bandwidth=1M; echo $?)" 0
slow=$(read_at 0 48); check "it holds" "$((slow >= 1500))" 1
ringfence update set --disk-limits 0,ops=2; ops=$(read_at 8 4)
ringfence update set --disk-limits 0; fast=$(read_at 16 48)
check "without one ($slow, $ops, $fast ms)" "$((fast < slow))" 1
check "the description" "$(ringfence update set --disk-limits 0,ops=9 && python3 - << 'P'
import http.client, json, socket
c = http.client.HTTPConnection("x"); c.sock = socket.socket(socket.AF_UNIX); c.sock.connect("/run/ringfence/set/api.sock")
for path in "/config", "/disks/0/limits", "/random/limits", "/log-levels":
    c.request("GET", path); d = json.load(c.getresponse()); print((d["disks"][0]["ops"] if path == "/config" else d), end=" ")
P
)" "9 \{'bandwidth': None, 'ops': 9\} \{'bandwidth': 4194304\} \{'guest': 'warn', 'vmm': 'info'\} "
check "no such disk" "$(ringfence update set --disk-limits 1,ops=9 2>&1; echo $?)" "ringfence: there is no such disk.*
125"
check "the random device" "$(ringfence update set --random-bandwidth 64K; echo $?)" 0

# Logs.
check "no call" "$(ringfence logs set | grep -c 'GET /stats')" 0
ringfence update set --vmm-loglevel debug; ringfence stats set > /dev/null
check "calls" "$(ringfence logs set | grep -c 'ringfence: GET /stats')" 1
ringfence update set --vmm-loglevel warn; ringfence stats set > /dev/null
check "calls no more" "$(ringfence logs set | grep -c 'ringfence: GET /stats')" 1
eat() { ringfence exec set -- python3 -c "$(cat /tmp/eat.py)" 245 > /tmp/e-out 2>&1; echo "$? $(tail -n 1 /tmp/e-out) $(ringfence logs set | grep -c "Out of memory")"; }
check "the guest says what is odd" "$(eat)" "137  1"
ringfence update set --loglevel error; check "and does not" "$(eat)" "137  1"
ringfence update set --loglevel warn; check "and does again" "$(eat)" "137  2"
ringfence kill set KILL
for _ in $(seq 50); do [ -z "$(pgrep -x ringfence-vmm)" ] && break; sleep 0.1; done
exit $failed
