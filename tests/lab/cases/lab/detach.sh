# `run --detach`: the name is printed when the program runs; then logs, ps, exec, wait and kill find the sandbox by it.
#: timeout 180
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
image=/srv/debian.erofs
# A reader of its output and error sees their end with the command, not with the sandbox.
id=$(timeout 60 ringfence run --detach --image $image -- sh -c 'echo out; echo err >&2; printf "a\tb\n"; trap "echo bye; exit 7" TERM; while :; do sleep 0.1; done' 2>&1 | cat)
check "the name" "$id" '[0-9a-f-]+'
check "ps" "$(ringfence ps | tail -n 1 | tr -s ' ')" "$id running [0-9]+ [0-9]+s 1 512M sh -c .*"
pid=$(ringfence ps --format json | python3 -c 'import json,sys; print(json.load(sys.stdin)[0]["instance"]["pid"])')
check "a session of its own, and nothing of the caller's" "$(ps -o sid= -p "$pid" | tr -d ' ') $(readlink /proc/$pid/fd/0)" "$pid /dev/null"
for _ in $(seq 100); do [[ "$(ringfence logs $id)" = *a$'\t'b* ]] && break; sleep 0.1; done
check "logs" "$(ringfence logs $id | grep -v '^ringfence:')" $'out\nerr\na\tb'
check "exec" "$(ringfence exec $id -- echo here)" here
ringfence logs --follow $id > /tmp/d-follow & follow=$!
ringfence wait $id > /tmp/d-wait & waiter=$!
for _ in $(seq 100); do [ -s /tmp/d-follow ] && break; sleep 0.1; done; sleep 0.5
kill -HUP $pid; sleep 0.3; check "a hang-up is the program's" "$(ringfence ps | grep -c "$id")" 0 # sh has no handler for it
wait $waiter; check "wait" "$? $(cat /tmp/d-wait)" "0 129"
wait $follow; check "who follows sees the end" "$? $(tail -n 1 /tmp/d-follow)" "0 ringfence: the sandbox is stopped"

id=$(ringfence run -d --name mine --image $image -- sh -c 'trap "echo bye; exit 7" TERM; while :; do sleep 0.1; done')
check "a name of one's own" "$id" mine
ringfence wait mine > /tmp/d-wait & waiter=$!
ringfence logs --follow mine > /tmp/d-follow & follow=$!
for _ in $(seq 100); do [ -s /tmp/d-follow ] && break; sleep 0.1; done; sleep 0.5
ringfence kill mine; wait $waiter; check "kill" "$? $(cat /tmp/d-wait)" "0 7"
wait $follow; check "the last words" "$(grep -v '^ringfence:' /tmp/d-follow)" bye
for _ in $(seq 50); do [ -z "$(ringfence ps | grep mine)" ] && break; sleep 0.1; done
check "much output waits for nobody" "$(ringfence run -d --name mine --image $image -- sh -c 'seq 300000; sleep 1000')" mine
for _ in $(seq 200); do [ "$(ringfence logs mine | grep -v '^ringfence:' | tail -n 1)" = 300000 ] && break; sleep 0.1; done
check "the end of the log" "$(ringfence logs mine | grep -v '^ringfence:' | tail -n 1)" 300000
ringfence kill mine KILL

# With a directory of the host: its server outlives the command, and goes with the sandbox.
mkdir -p /tmp/d-volume; echo content > /tmp/d-volume/file
check "a directory of the host" "$(cd /tmp; ringfence run -d --name mine --image $image --mount src=d-volume,dst=/mnt -- sh -c 'trap "echo bye > /mnt/bye; exit 7" TERM; cat /mnt/file; while :; do sleep 0.1; done')" mine
for _ in $(seq 100); do [ "$(ringfence logs mine | grep -v '^ringfence:')" = content ] && break; sleep 0.1; done
check "it is read" "$(ringfence logs mine | grep -v '^ringfence:')" content
check "by exec, too" "$(ringfence exec mine -- sh -c 'echo more >> /mnt/file; cat /mnt/file'; cat /tmp/d-volume/file)" $'content\nmore\ncontent\nmore'
ringfence wait mine > /tmp/d-wait & waiter=$!; sleep 0.3
ringfence kill mine; wait $waiter; check "its end" "$? $(cat /tmp/d-wait /tmp/d-volume/bye)" $'0 7\nbye'
no-leftovers || failed=1
rm -r /tmp/d-volume
check "no such directory" "$(ringfence run -d --image $image --mount src=/tmp/d-volume,dst=/mnt -- true 2>&1; echo $?)" "ringfence: cannot share /tmp/d-volume: .*
125"

# What cannot be started is said, with its code.
check "no such program" "$(ringfence run -d --image $image -- no-such-program 2>&1; echo $?)" "ringfence: there is no program .*
127"
check "no such image" "$(ringfence run -d --image /nowhere -- true 2>&1; echo $?)" "ringfence: .*
125"
check "a terminal" "$(ringfence run -d -t --image $image -- true > /dev/null 2>&1; echo $?)" 125
no-leftovers || failed=1
exit $failed
