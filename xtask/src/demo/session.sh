cat /etc/os-release | head -1
uname -srm
whoami; hostname; pwd
ls -x -w 80 /
for fruit in quince medlar sloe; do echo "$fruit"; done | sort | nl
find /usr/bin -type f | wc -l
(trap 'echo caught a signal' TERM; kill -TERM $BASHPID)
ps -e -o pid,ppid,comm
echo "this file lives only in the sandbox" > /etc/motd; cat /etc/motd
