#!/bin/bash
# Boots the hostile kernel (guest-kernel/hostile) in place of ours, in the jail, once for each attack. Whatever it does, the VMM ends
# in time with a documented exit code and a sentence, its own memory stays small, the image stays what it is, another
# sandbox of the same image sees nothing, and nothing is left. Prints a line a check and `N passed, M failed`.
#
# usage: hostile-kernel.sh KERNEL [ATTACK]
kernel=$1 only=${2:-}
image=/srv/debian.erofs passed=0 failed=0
work=$(mktemp -d) && cd "$work" || exit 1
check() { # NAME GOT EXPECTED
    if [[ "$2" =~ ^($3)$ ]]; then passed=$((passed + 1)); echo "ok   $1"
    else failed=$((failed + 1)); echo "FAIL $1: $2, expected $3"; tail -n 5 err; fi
}
# What the processes of a sandbox have of their own, without the guest's memory, in KiB: the largest that was seen.
watch_memory() {
    local most=0 kib
    while sleep 0.3; do
        for kib in $(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' $(pgrep '^ringfence' | sed 's|.*|/proc/&/status|') 2>/dev/null); do
            [ "$kib" -le "$most" ] || { most=$kib; echo "$most" > rss; }
        done
    done
}
attack() { # NAME EXIT-CODES [TIME-OUT]
    [ -z "$only" ] || [ "$only" = "$1" ] || return
    RINGFENCE_GUEST_KERNEL=$kernel timeout -s KILL 300 ringfence run --cpus 2 --memory 64M --timeout "${3:-120s}" \
        --disk disk --disk read-only,ro --net tap=hostile0 --image "$image" -- "attack:$1" > "${out:-out}" 2> err < /dev/null
    local code=$?
    check "$1 ends with $code" "$code" "$2"
    # Nothing of it is an instruction to a terminal, and the VMM did not panic.
    if LC_ALL=C grep -q $'[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]' err; then check "$1: text for a terminal" control none; fi
    if grep -Eq "thread '.*' panicked|has overflowed its stack|attempt to" err; then check "$1: the VMM" panicked none; fi
}
head -c 1M /dev/urandom > read-only && truncate -s 4M disk
# A network whose other end never stops to send.
ip tuntap add hostile0 mode tap && ip addr add 192.0.2.1/24 dev hostile0 && ip link set hostile0 up
ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev hostile0 nud permanent
python3 -c 'import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for _ in range(20):
        try: s.sendto(b"x" * 500, ("192.0.2.2", 9))
        except OSError: pass
    time.sleep(0.02)' & flood=$!
before=$(cat "$image" read-only | sha256sum)
watch_memory & watcher=$!
# The other sandbox reads the image all the while.
ringfence run --image "$image" -- bash -c 'cd /usr/bin; sha256sum python3.11 bash perl > /tmp/a
    while ! read -r -t 0.2 line; do dd if=/usr/bin/python3.11 iflag=direct bs=1M of=/dev/null 2>/dev/null; sha256sum --quiet -c /tmp/a || exit 3; done' \
    < <(while [ ! -e stop ]; do sleep 0.3; done; echo) > other 2>&1 & other=$!

if [ -z "$only" ] || [ "$only" = all ]; then
    attack all 120 280s
    sed -n 's/^/     /p' err | grep -E '     (ok  |FAIL|hostile:)'
    check "all: every attack was survived" "$(sed -n 's/^hostile: [0-9]* passed, \([0-9]*\) failed.*/\1/p' err)" 0
fi
attack triple-fault 121
attack no-page-tables '121|124' 6s
attack power-unknown 121
attack power-off 121
attack reset 121
attack panic 120
attack serial-terminal 120
for name in power-narrow hang spin spin-exits serial-flood; do attack $name 124 6s; done
out=/dev/null attack stdout-flood 124 6s
# Nobody reads what it says.
mkfifo pipe
sleep 100 < pipe & reader=$!
out=pipe attack stdout-flood 124 6s
kill $reader
for name in length huge garbage nested unknown-field unknown-type version no-hello; do attack control-$name 121; done
attack control-replies 121
attack control-exit-twice '7|121'
attack control-start-failed 125
attack control-slow 124 6s
attack control-flood '121|124' 6s

touch stop; wait $other; check "the other sandbox saw nothing ($(head -c 200 other))" $? 0
kill $watcher $flood 2>/dev/null
ip link del hostile0
check "the image and the read-only disk are unchanged" "$(cat "$image" read-only | sha256sum)" "$before"
check "the disk is as large as it was" "$(stat -c %s disk)" 4194304
largest=$(cat rss 2>/dev/null || echo 0)
check "no process of a sandbox took more than 8 MiB of its own ($largest KiB)" $((largest > 0 && largest < 8192)) 1
no-leftovers > left 2>&1; check "nothing is left $(head -c 300 left)" $? 0
echo "$passed passed, $failed failed"
