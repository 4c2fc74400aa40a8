# Signals and traps, exit codes of signalled children, EXIT traps.
#: exit 7
trap 'echo got TERM' TERM
trap 'echo got USR1' USR1
trap 'echo leaving with $?' EXIT
kill -TERM $$
kill -USR1 $$
(sleep 0.2; kill -USR1 $$; sleep 0.5) &
wait $!; echo "wait: $?"
sh -c 'kill -9 $$'; echo "killed: $?"
sh -c 'kill -SEGV $$' 2>/dev/null; echo "segv: $?"
sh -c 'trap "" INT; kill -INT $$; echo survived INT'
bash -c 'trap "echo hup; exit 4" HUP; kill -HUP $$; sleep 5'; echo "hup: $?"
timeout 0.3 sleep 10; echo "timeout: $?"
timeout -s KILL 0.3 sleep 10; echo "timeout kill: $?"
bash -c 'set -o pipefail; yes | head -n 1; echo "pipe: ${PIPESTATUS[*]}"'
exit 7
