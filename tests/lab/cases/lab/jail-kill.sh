# kill -9 of any process of a sandbox at any moment, many sandboxes at once, and many after another: nothing is left.
# For the patient: `cargo xtask test --only jail-soak`.
#: timeout 600
image=/srv/debian.erofs
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
run() { ringfence run --image $image "$@"; }
quiet() { no-leftovers || failed=1; }

delays="0.05 0.2 1"
[ -z "$SOAK" ] || delays=$(seq 0.01 0.02 1)
# SIGKILL to any of the processes, at any moment: nothing is left, and the name is free at once.
for victim in '' -mon -vmm '(-mon|-vmm)?'; do
    for delay in $delays; do
        ringfence run --image $image --name victim -- sleep 100 2> /tmp/j-err & main=$!
        sleep $delay; pkill -KILL -x "ringfence$victim"; wait $main 2> /dev/null; code=$?
        [ "$victim" = '' ] || [ "$victim" = '(-mon|-vmm)?' ] || [ $code = 121 ] || [ -z "$(cat /tmp/j-err)" ] || check "ringfence$victim" "$code $(cat /tmp/j-err)" "12[12] ringfence: .*"
        [ "$victim" != '(-mon|-vmm)?' ] || sleep 0.2
        check "after kill -9 of ringfence$victim at $delay s" "$(run --name victim -- echo again 2>&1)" again
        quiet
    done
done

# Many.
for n in $(seq 64); do ringfence run --image $image --name many-$n --memory 64M -- echo "$n" > /tmp/j-many-$n & done; wait
check "64 at the same time" "$(cat /tmp/j-many-* | sort -n | tr '\n' ' ')" "$(seq 64 | tr '\n' ' ')"
quiet
for n in $(seq ${SOAK:-20}); do run --name again --memory 64M -- echo "$n"; done > /tmp/j-out
check "${SOAK:-20} one after another" "$(tr '\n' ' ' < /tmp/j-out)" "$(seq ${SOAK:-20} | tr '\n' ' ')"
quiet
exit $failed
