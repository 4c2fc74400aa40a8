# Disks that cannot be: a clear error and the documented exit code; and who may have a disk at the same time.
#: timeout 300
image=/srv/debian.erofs failed=0
run() { local code=$1 pattern=$2; shift 2; expect-run "$code" "$pattern" -- ringfence run --image $image "$@" -- true || failed=1; }
cd "$(mktemp -d)"
truncate -s 1M disk
run 125 'missing' --disk missing
run 125 'neither a regular file' --disk /dev/null,ro
run 125 'neither a regular file|directory' --disk /,ro
: > empty; run 125 'empty' --disk empty
truncate -s 1000 odd; run 125 '512' --disk odd
run 125 'no option of a disk' --disk disk,rw
run 125 '1 to 20' --disk disk,id=
run 125 'never' --disk disk,ops=0
run 125 'given twice' --disk disk --disk disk
run 125 'at most 8' $(for n in 1 2 3 4 5 6 7 8 9; do truncate -s 1M d$n; echo --disk d$n; done)
run 0 '' --disk disk,ro --disk disk,ro,id=again,bandwidth=1M,ops=100
mkfifo ready
ringfence run --image $image --disk disk -- sh -c 'echo up; sleep 60' > ready &
read -r line < ready
run 125 'in use by another sandbox' --disk disk
run 125 'that may write it' --disk disk,ro
kill -9 $!; wait $! 2> /dev/null
i=0; until ringfence run --image $image --disk disk -- true 2> /dev/null; do i=$((i + 1)); [ $i -lt 20 ] || { echo 'still locked'; failed=1; break; }; sleep 0.2; done
no-leftovers || failed=1
exit $failed
