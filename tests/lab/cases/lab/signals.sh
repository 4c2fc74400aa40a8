# Signals to the command reach the program; killing the command leaves nothing.
#: timeout 240
run() { ringfence run --image /srv/debian.erofs "$@"; }
failed=0; check() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
await() { for _ in $(seq 100); do grep -q "$1" "$2" && return; sleep 0.1; done; echo "FAIL: no '$1' in $2"; failed=1; }
for signal in TERM INT HUP USR1; do
    ringfence run --image /srv/debian.erofs -- sh -c "trap 'echo got $signal; exit 5' $signal; echo ready; while :; do sleep 0.1; done" > /tmp/out & pid=$!
    await ready /tmp/out; kill -$signal $pid; wait $pid; check "$signal is forwarded" "$? $(tail -n 1 /tmp/out)" "5 got $signal"
done
for delay in 0 0.01 0.02 0.05 0.1 0.2 0.5 1; do
    ringfence run --image /srv/debian.erofs --cpus 2 -- sh -c 'sleep 100 & yes > /dev/null' & pid=$!
    sleep $delay; kill -KILL $pid; wait $pid 2>/dev/null; no-leftovers || failed=1
done
check "time-out" "$(run --timeout 1s -- sh -c 'trap "" TERM INT; while :; do :; done' 2>/dev/null; echo $?)" 124
check "a crash" "$(run -- sh -c 'sh -c "kill -SEGV \$\$"; echo $?' 2>/dev/null)" 139
no-leftovers || failed=1
exit $failed
