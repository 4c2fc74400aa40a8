# What `ringfence run` promises of its options.
#: timeout 240
run() { ringfence run --image /srv/debian.erofs "$@"; }
failed=0; check() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
check env "$(PASSED=on run --env A=1 --env 'B=two words' --env PASSED -- sh -c 'echo "$A,$B,$PASSED"')" "1,two words,on"
check "no other environment" "$(LEAK=1 run -- sh -c 'echo "${LEAK-none}"')" none
check cwd "$(run --cwd /usr/bin -- pwd)" /usr/bin
check user "$(run --user nobody -- id -un)" nobody
check "user and group" "$(run --user 1000:33 -- id -u -- ; run --user 1000:33 -- id -g)" "1000
33"
check hostname "$(run --hostname box -- hostname)" box
check cpus "$(run --cpus 3 -- nproc)" 3
check memory "$(run --memory 256M -- awk '/MemTotal/ { print ($2 > 200000 && $2 <= 262144) }' /proc/meminfo)" 1
check arguments "$(run -- printf '<%s>' 'a b' '' '*' '$HOME' "it's")" "<a b><><*><\$HOME><it's>"
check "exit code" "$(run -- sh -c 'exit 42'; echo $?)" 42
run --strace -- true 2>&1 | grep -q 'execve\|exit_group'; check strace $? 0
run --stats=/tmp/stats --format json -- true; python3 -c 'import json; s = json.load(open("/tmp/stats")); assert s["memory"]["guest_touched"] > 0 and s["phases"] and s["exits"]["total"] > 0'; check stats $? 0
# The image cannot be written, and writes of one sandbox are not seen by the next.
before=$(md5sum < /srv/debian.erofs)
check "writes stay" "$(run -- sh -c 'echo changed > /etc/motd; rm -r /usr/share; cat /etc/motd; ls /usr/share 2>&1 | wc -l')" "changed
1"
check "and are gone" "$(run -- sh -c 'ls /usr/share | wc -l')" "$(native sh -c 'ls /usr/share | wc -l')"
check "the image is as before" "$(md5sum < /srv/debian.erofs)" "$before"
no-leftovers || failed=1
exit $failed
