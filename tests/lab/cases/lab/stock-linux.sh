# A stock Debian kernel boots on our machine and its drivers judge our devices.
#: timeout 420
sh /opt/ringfence/linux/judge.sh 1 && no-leftovers
