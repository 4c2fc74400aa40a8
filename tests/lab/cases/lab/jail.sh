# A sandbox runs in the jail: what it is, what it takes, who may (docs/jailer.md). What kill -9 leaves: jail-kill.sh.
#: timeout 600
image=/srv/debian.erofs
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
run() { ringfence run --image $image "$@"; }
pid_of() { pgrep -x "ringfence$1"; }
await() { for _ in $(seq 300); do grep -q "$1" "$2" && return; sleep 0.1; done; echo "FAIL: no '$1' in $2"; failed=1; }
quiet() { no-leftovers || failed=1; }

# What it is: three processes, the VMM with nothing.
exec 7< /etc/passwd # not for the sandbox
ringfence run --image $image --name box --memory 256M -- sh -c 'echo ready; sleep 100' > /tmp/j-out 2> /tmp/j-err & main=$!
await ready /tmp/j-out
vmm=$(pid_of -vmm) monitor=$(pid_of -mon)
check "its parent" "$(ps -o ppid= -p "$vmm" | tr -d ' ') $(ps -o ppid= -p "$monitor" | tr -d ' ')" "$monitor $main"
check "ids" "$(ps -o uid= -p "$vmm" | awk '{ print ($1 >= 0x5244000 && $1 < 0x52470000) }')" "1|0"
check "an id of its own" "$(($(ps -o uid= -p "$vmm") >> 16))" $((0x5246))
check "rights" "$(grep -E '^Cap|NoNewPrivs' /proc/$vmm/status | awk '{ print $2 }' | tr '\n' ' ')" "(0{16} ){5}1 "
for n in cgroup ipc mnt net pid user uts; do
    [ "$(readlink /proc/$vmm/ns/$n)" != "$(readlink /proc/self/ns/$n)" ]; check "own $n namespace" $? 0
done
check "mounts" "$(awk '{ print $5, $(NF-2) }' /proc/$vmm/mountinfo)" "/ tmpfs"
check "files" "$(ls -A /proc/$vmm/root | wc -l)" 0
check "environment" "$(wc -c < /proc/$vmm/environ)" 0
# Its own are KVM's machine, events, timers, sockets, memory. The host's: image, executable, streams.
check "open" "$(readlink /proc/$vmm/fd/* | sed 's/:.*//' | grep -v '^anon_inode\|^socket\|^pipe\|^/memfd' | sort -u | tr '\n' ' ')" \
    "/dev/null /srv/debian.erofs /tmp/j-err /tmp/j-out( /usr/local/bin/ringfence)? "
check "cgroup" "$(cat /proc/$vmm/cgroup) $(ls -d /sys/fs/cgroup/ringfence/box)" "0::/ringfence/box /sys/fs/cgroup/ringfence/box"
check "memory" "$(($(cat /sys/fs/cgroup/ringfence/box/memory.max) >> 20))" 361
check "the name is taken" "$(run --name box -- true 2>&1; echo $?)" "ringfence: a sandbox named .box. is running already.125"
kill -TERM $main; wait $main; check "SIGTERM" $? 143
quiet

# Codes and words come out as they do without.
check "code" "$(run -- sh -c 'exit 9'; echo $?)" 9
check "killed" "$(run -- sh -c 'kill -9 $$'; echo $?)" 137
check "no program" "$(run -- nosuch 2> /dev/null; echo $?)" 127
check "no name" "$(run --name ../x -- true 2>&1 | grep -c 'letters, digits and dashes')" 1
check "limits of nothing" "$(run --no-jail --host-memory 1G -- true 2> /dev/null; echo $?)" 125
check "what is lost" "$(run --no-jail -- true 2>&1)" "ringfence: warning: --no-jail: .*has them, too"
check "a command for nobody" "$(ringfence vmm 2>&1; echo $?)" "ringfence: .vmm. is started by .*125"

# Limits hold.
check "host memory" "$(run --host-memory 100M --memory 512M -- sh -c 'head -c 300M /dev/zero | tail -c 250M | wc -c' 2>&1; echo $?)" "ringfence: the VMM was killed.*121"
start=$(date +%s%N); run -- sh -c 'n=0; while [ $n -lt 4000 ]; do n=$((n+1)); done'; free=$(($(date +%s%N) - start))
start=$(date +%s%N); run --host-cpus 0.2 -- sh -c 'n=0; while [ $n -lt 4000 ]; do n=$((n+1)); done'; bound=$(($(date +%s%N) - start))
check "host CPUs ($((free / 1000000)) ms, $((bound / 1000000)) ms)" "$((bound > 2 * free))" 1
mkdir -p /sys/fs/cgroup/j-parent
ringfence run --image $image --cgroup-parent j-parent -- sleep 100 & main=$!; for _ in $(seq 100); do pid_of -vmm > /dev/null && break; sleep 0.1; done
check "cgroup parent" "$(cut -d/ -f2 /proc/$(pid_of -vmm)/cgroup)" j-parent
kill -KILL $main; wait $main 2> /dev/null; quiet
check "nothing below it" "$(rmdir /sys/fs/cgroup/j-parent; echo $?)" 0

# Stopped and continued with the command. (A job of its own: the kernel ignores SIGTSTP where nobody could continue.)
set -m
ringfence run --image $image -- sh -c 'echo ready; while :; do echo tick; sleep 0.1; done' > /tmp/j-out & main=$!
await tick /tmp/j-out; kill -TSTP $main; sleep 1
check "SIGTSTP" "$(ps -o stat= -p $main | cut -c1) $(ps -o stat= -p $(pid_of -vmm) | cut -c1)" "T T"
before=$(wc -l < /tmp/j-out); sleep 1; check "it stands still" "$(wc -l < /tmp/j-out)" "$before"
kill -CONT $main; for _ in $(seq 100); do [ "$(wc -l < /tmp/j-out)" -gt "$before" ] && break; sleep 0.1; done
check "SIGCONT" "$(($(wc -l < /tmp/j-out) > before))" 1
kill -TERM $main; wait $main; quiet
set +m

# Without root, with a cgroup and without.
chmod 666 /dev/kvm
as_user() { setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
check "without root" "$(as_user ringfence run --image $image -- id -u 2> /tmp/j-err; echo $?)" "0.0"
check "it says what is weaker" "$(grep -c 'warning: .*no limits of cgroups hold\|warning: without root' /tmp/j-err)" 2
check "limits that cannot hold" "$(as_user ringfence run --host-memory 1G --image $image -- true 2>&1; echo $?)" "ringfence: the limits cannot be held.*125"
mkdir -p /sys/fs/cgroup/j-user/own; echo '+memory +pids' > /sys/fs/cgroup/cgroup.subtree_control; echo '+memory +pids' > /sys/fs/cgroup/j-user/cgroup.subtree_control
chown 1000 /sys/fs/cgroup/j-user /sys/fs/cgroup/j-user/{cgroup.procs,cgroup.subtree_control}; chown -R 1000 /sys/fs/cgroup/j-user/own
check "a delegated cgroup" "$(sh -c 'echo $$ > /sys/fs/cgroup/j-user/own/cgroup.procs; exec setpriv --reuid 1000 --regid 1000 --clear-groups ringfence run --cgroup-parent j-user --host-memory 1G --image '$image' -- id -u' 2> /tmp/j-err; echo $?)" "0.0"
quiet
echo 0 > /proc/sys/user/max_user_namespaces
check "no namespaces" "$(run -- true 2>&1; echo $?)" "ringfence: the jail failed at step .namespaces.*max_user_namespaces.*--no-jail.*122"
echo 10000 > /proc/sys/user/max_user_namespaces

exit $failed
