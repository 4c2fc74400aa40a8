# A stock Debian kernel boots on our machine and its drivers judge our devices.
#: timeout 300
sh /opt/ringfence/linux/judge.sh 2 && no-leftovers
