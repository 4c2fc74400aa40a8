# Standard streams: byte-exact, full duplex, closed, full, broken.
#: timeout 240
run() { ringfence run --image /srv/debian.erofs "$@"; }
failed=0; check() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
head -c 20000000 /dev/urandom > /tmp/data
check "20 MB through cat" "$(run -- cat < /tmp/data | md5sum)" "$(md5sum < /tmp/data)"
check "both ways at once" "$(run -- sh -c 'tee /dev/stderr' < /tmp/data 2>&1 >/dev/null | md5sum)" "$(md5sum < /tmp/data)"
check "streams apart" "$(run -- sh -c 'echo out; echo err >&2' 2>/dev/null)" out
check "no input" "$(run -- cat < /dev/null | wc -c)" 0
check "closed input" "$(run -- sh -c 'cat; echo done' <&-)" done
check "closed output" "$(run -- sh -c 'echo x; exit 3' >&-; echo $?)" 3
run -- sh -c 'seq 1000000; echo "seq ended with $?" >&2' > /dev/full 2> /tmp/err; check "full disk: code" "$?" 0
grep -q 'No space left\|full' /tmp/err; check "full disk is said" $? 0
timeout 60 bash -c 'ringfence run --image /srv/debian.erofs -- yes | head -n 1; exit ${PIPESTATUS[0]}'; check "SIGPIPE ends yes" $? 141
check "all kinds of fifos" "$(run -- sh -c 'test -p /dev/stdin && test -p /dev/stdout && echo fifos' < /dev/null)" fifos
check "early end of input" "$(seq 1000000 | run -- head -n 1)" 1
check "interactive" "$( (echo one; sleep 1; echo two) | run -- sh -c 'read a; echo got $a; read b; echo got $b' | tr '\n' ' ')" "got one got two "
check "input nobody reads stays" "$(seq 3 | while read -r n; do run -- echo "$n"; done | tr '\n' ' ')" "1 2 3 "
no-leftovers || failed=1
exit $failed
