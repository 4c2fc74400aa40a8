# 2,000 processes, one after the other, each a fork and an exec.
#: timeout 300
i=0
while [ $i -lt 2000 ]; do
    /bin/true || echo "failed at $i"
    i=$((i + 1))
done
echo "$i processes"
/bin/false; echo "false says $?"
perl -e 'for (1..500) { my $pid = fork // die; if (!$pid) { exit($_ % 7) } waitpid($pid, 0); $sum += $? >> 8 } print "$sum\n"'
