# Background jobs, wait, parallel writers, named pipes, process substitution.
for i in 1 2 3 4 5; do (sleep 0.$i; echo "job $i"; exit $i) & pids="$pids $!"; done
for pid in $pids; do wait $pid; echo "ended $?"; done
mkfifo /tmp/fifo; (echo through the fifo > /tmp/fifo) & cat /tmp/fifo; wait
bash -c 'diff <(seq 5) <(seq 2 6); echo "diff $?"; sort <(echo b; echo a)'
bash -c 'coproc tr a-z A-Z; echo lower >&"${COPROC[1]}"; exec {COPROC[1]}>&-; cat <&"${COPROC[0]}"'
bash -c 'sleep 30 & kill %1; wait %1; echo "killed job $?"' 2>/dev/null
(exec 9>/tmp/lock; flock 9; echo locked; sleep 0.3) & (sleep 0.1; exec 9>/tmp/lock; flock -n 9 || echo busy; flock 9; echo mine) ; wait
nohup sh -c 'echo nohup works' 2>/dev/null
setsid sh -c 'echo new session'
xargs -P 4 -n 1 sh -c 'echo $(($1 * $1))' sh <<HERE | sort -n
1 2 3 4 5 6 7 8
HERE
