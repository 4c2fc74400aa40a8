# --timeout ends a sandbox whatever its kernel does, and whatever the command itself waits for.
#: timeout 180
run() { timeout -s KILL 60 ringfence run --image /srv/debian.erofs --timeout 2s "$@"; }
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1 ($2)"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }

# A kernel that spins with interrupts off.
printf '.globl _start\n_start: cli\n1: pause\njmp 1b\n' > /tmp/spin.s
gcc -nostdlib -static -Wl,-Ttext=0x200000 -Wl,--build-id=none -o /tmp/spin /tmp/spin.s || exit 1
RINGFENCE_GUEST_KERNEL=/tmp/spin run --cpus 4 --loglevel error -- /bin/true 2> /tmp/said; check "a kernel that spins" $? 124
check "it is said where it was" "$(grep -c 'vcpu0 at rip 0x20000.*ring 0, interrupts off' /tmp/said)" 1

# Nobody reads the program's output, nor what the command has to say.
{ run -- yes; echo $? > /tmp/code; } 2>&1 | sleep 20
check "a reader that does not read" "$(cat /tmp/code)" 124
no-leftovers || failed=1
exit $failed
