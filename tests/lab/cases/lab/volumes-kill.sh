# kill -9 of any process of a sandbox that has a directory of the host: nothing is left.
#: timeout 300
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
run() { ringfence run --image /srv/debian.erofs "$@"; }
quiet() { no-leftovers || failed=1; }
delays="0.05 0.2 1"

# SIGKILL to the gofer of a directory of the host at any moment: the sandbox goes on, and what asks about the directory is told that nobody
# is there; or it has not started yet, and says so. So does one whose VMM is killed: its gofer goes, too.
mkdir -p /tmp/j-volume; echo content > /tmp/j-volume/file
for victim in -gofer -mon -vmm ''; do
    for delay in $delays; do
        run --name victim --mount type=bind,src=/tmp/j-volume,dst=/mnt -- sh -c 'echo up; sleep 3; cat /mnt/file; exit 7' > /tmp/j-out 2>&1 & main=$!
        sleep $delay; pkill -KILL -x "ringfence$victim"; wait $main 2> /dev/null; code=$?
        [ "$victim" != -gofer ] || check "after kill -9 of the gofer at $delay s" "$code $(tr '\n' ' ' < /tmp/j-out)" "7 up (content|cat: .*: Transport endpoint is not connected) |125 ringfence: .*|126 ringfence: .*"
        quiet
        check "a mount after kill -9 of ringfence$victim at $delay s" "$(run --name victim --mount type=bind,src=/tmp/j-volume,dst=/mnt -- cat /mnt/file 2>&1)" content
    done
done
quiet
exit $failed
