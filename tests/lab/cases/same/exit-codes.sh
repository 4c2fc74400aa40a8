# Every way to end.
#: exit 139
for code in 0 1 2 42 126 127 128 255; do sh -c "exit $code"; echo "$code gives $?"; done
for signal in HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM; do
    (ulimit -c 0; sh -c "kill -$signal \$\$" 2>/dev/null); echo "$signal gives $?"
done
/nonexistent 2>/dev/null; echo "missing gives $?"
/etc/passwd 2>/dev/null; echo "not executable gives $?"
printf '#!/bin/sh\necho "script got $*"\nexit 9\n' > /tmp/script; chmod +x /tmp/script; /tmp/script a b; echo "script gives $?"
printf '#!/no/such/interpreter\n' > /tmp/bad; chmod +x /tmp/bad; /tmp/bad 2>/dev/null; echo "bad interpreter gives $?"
printf '\177ELF garbage' > /tmp/elf; chmod +x /tmp/elf; /tmp/elf 2>/dev/null; echo "bad ELF gives $?"
# The first process dies of its own fault.
exec python3 -c 'import ctypes; ctypes.string_at(0)'
