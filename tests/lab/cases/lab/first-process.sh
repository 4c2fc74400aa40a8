# The program itself is process 1, and can be ended as any program (docs/architecture.md): only what other processes of the
# sandbox send does not end it. Natively, as the first of a pid namespace, it would be spared more.
run() { ringfence run --image /srv/debian.erofs "$@"; }
failed=0; check() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
for signal in TERM INT KILL ABRT SEGV USR1 ALRM; do
    check "its own SIG$signal" "$(run -- sh -c "kill -$signal \$\$; echo still here" 2>/dev/null; echo $?)" $((128 + $(kill -l $signal)))
done
check "others" "$(run -- sh -c '(for s in TERM HUP KILL STOP SEGV; do kill -$s 1; done); echo still here')" "still here"
check "others, with a handler" "$(run -- sh -c 'trap "echo handled; exit 3" TERM; (kill -TERM 1); sleep 10'; echo $?)" "handled
3"
run -- yes | head -n 1 > /dev/null; check "a closed standard output" "${PIPESTATUS[0]}" 141
check "abort" "$(run -- perl -e 'use POSIX; abort' 2>/dev/null; echo $?)" 134
check "its timer" "$(run -- perl -e 'alarm 1; sleep 100' 2>/dev/null; echo $?)" 142
exit $failed
