# Programs that fork without end or eat all memory end or are killed; the command stays in control.
#: timeout 900
run() { timeout -s KILL 150 ringfence run --image /srv/debian.erofs "$@"; }
# In little memory: each page a sandbox touches for the first time is an exit here.
eat() { run --memory 128M --timeout 120s "$@"; }
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1 ($2)"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
run --timeout 15s -- perl -e 'while (1) { fork }' > /dev/null 2>&1; check "fork bomb" $? '0|1|2|9|11|12|124|137|255'
run --timeout 15s -- sh -c 'b() { b | b & }; b; sleep 100' > /dev/null 2>&1; check "shell fork bomb" $? '0|2|124|137|254'
eat -- python3 -c 'a = []
while True: a.append(bytearray(1 << 20))' > /tmp/out 2>&1; check "memory eater" $? '1|137'
eat -- sh -c 'python3 -c "a = []
while True: a.append(b\"x\" * (1 << 20))"; echo "it ended with $?, the shell lives"' 2>/dev/null > /tmp/out; check "memory eater's parent" $? 0
grep -Eq 'it ended with (1|137), the shell lives' /tmp/out; check "it is told" $? 0
eat -- sh -c 'head -c 2G /dev/zero > /tmp/big; echo "head says $?"; rm /tmp/big; head -c 10M /dev/zero | wc -c' > /tmp/out 2>&1; check "tmpfs eater" $? 0
grep -q 10485760 /tmp/out; check "memory comes back" $? 0
eat -- perl -e 'my @f; while (open(my $f, "<", "/etc/passwd")) { push @f, $f } print "open files end at ", scalar(@f) > 100 ? "a limit" : "nothing", "\n"' > /tmp/out; check "file eater" "$? $(cat /tmp/out)" '0 open files end at a limit'
eat -- python3 -c 'import sys
def f(): f()
sys.setrecursionlimit(1 << 30)
f()' > /dev/null 2>&1; check "stack eater" $? '139|1|137'
no-leftovers || failed=1
exit $failed
