# procfs as ps, free and scripts read it.
#: run --cpus 2
ps -o comm= -p $$; ps -e > /dev/null && echo ps; free > /dev/null && echo free; top -b -n 1 > /dev/null && echo top; uptime > /dev/null && echo uptime
sleep 5 & ps -o pid=,ppid=,comm= -p $! | awk -v me=$$ '{ print ($2 == me), $3 }'; pgrep -c sleep; pkill sleep; wait $!; echo $?
ls -l /proc/self/fd | awk '{ print $9 }' | head -n 3; readlink /proc/self/exe; tr '\0' ' ' < /proc/self/cmdline; echo
awk '/^(Name|Uid|Gid|Threads)/ { print }' /proc/self/status; cut -d' ' -f2,3 /proc/self/stat
grep -c . /proc/mounts > /dev/null && echo mounts; grep -q MemTotal /proc/meminfo && echo meminfo; grep -q ^processor /proc/cpuinfo && echo cpuinfo
head -n 1 /proc/self/maps | grep -c r--p; cat /proc/sys/kernel/ostype; test -r /proc/uptime -a -r /proc/loadavg -a -r /proc/stat && echo more
readlink /proc/self/cwd /proc/self/root; cat /proc/self/task/*/comm; cat /proc/sys/kernel/pid_max > /dev/null && echo pid_max
ls -ld /proc/self/ns > /dev/null && echo ns; wc -l < /proc/self/limits; ulimit -n 512; awk '/open files/ { print $4 }' /proc/self/limits
