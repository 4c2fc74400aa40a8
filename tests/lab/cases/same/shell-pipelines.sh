# Pipelines, subshells, command substitution, redirections, here-documents.
printf '%s\n' pear apple quince fig | sort | tr a-z A-Z | nl
(cd /etc && ls -d passwd group; exit 3); echo "subshell: $?"
total=$(seq 1 1000 | awk '{ sum += $1 } END { print sum }'); echo "$total"
cat <<HERE | sed 's/^/> /'
here is \$HOME unexpanded and $((6 * 7)) expanded
	a tab
HERE
{ echo out; echo err >&2; } 2>&1 | sort
echo one > /tmp/f; echo two >> /tmp/f; cat < /tmp/f; wc -c < /tmp/f
ls /nonexistent 2>/dev/null || echo "no such: $?"
exec 3> /tmp/three; echo third >&3; exec 3>&-; cat /tmp/three
yes | head -n 3
seq 100000 | tail -n 1
head -c 1000000 /dev/zero | wc -c
cat /proc/self/comm
echo to-stderr >&2
set -- a 'b c' d; for word; do printf '<%s>' "$word"; done; echo
case $(uname -s)-$(uname -m) in Linux-x86_64) echo right;; *) echo wrong;; esac
find /etc -maxdepth 1 -name 'd*' | sort
