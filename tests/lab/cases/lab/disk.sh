# Disks inside: read, written, mapped, not written when read-only, truncated by the host, and as Linux shows them.
#: timeout 600
image=/srv/debian.erofs failed=0
# Not on a tmpfs, whose pages count as the sandbox's memory.
work=$(mktemp -d -p /var/tmp); cd "$work"
is() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: '$2', not '$3'"; failed=1; fi; }
inside() { ringfence run --image $image "$@"; }
truncate -s 64M disk
head -c 10000384 /dev/urandom > ro
sum=$(md5sum < ro)

is 'what Linux shows' "$(inside --disk disk,id=my-serial --disk ro,ro -- sh -c '
	stat -c "%n %F %t:%T" /dev/vda /dev/vdb; tail -n 2 /proc/partitions | tr -s " "; grep virtblk /proc/devices
	cat /sys/block/vda/size /sys/block/vdb/ro /sys/block/vda/serial; echo
	readlink /sys/dev/block/254:16; lsblk -rno NAME,SIZE,RO,TYPE
	PATH=$PATH:/sbin; blockdev --getsize64 --getss --getro /dev/vdb; blockdev --flushbufs /dev/vda && echo flushed' 2>&1)" \
'/dev/vda block special file fe:0
/dev/vdb block special file fe:10
 254 0 65536 vda
 254 16 9766 vdb
254 virtblk
131072
1
my-serial
../../block/vdb
vda 64M 0 disk
vdb 9.5M 1 disk
10000384
512
1
flushed'

is 'a read-only disk is read' "$(inside --disk ro,ro -- md5sum /dev/vda | cut -c1-32)" "${sum%% *}"
is 'and not written' "$(inside --disk ro,ro -- sh -c 'dd if=/dev/zero of=/dev/vda count=1; echo $?' 2>&1 | grep -c 'Operation not permitted\|^1$')" 2
is 'nor changed' "$(md5sum < ro)" "$sum"

inside --disk disk --disk ro,ro -- sh -c '
	dd if=/dev/vdb of=/dev/vda bs=1M seek=3; dd if=/dev/vdb of=/dev/vda bs=777 count=1000 seek=30000 conv=fsync
	dd if=/dev/vdb of=/dev/vda bs=64K count=10 seek=600 oflag=direct
	dd if=/dev/zero of=/dev/vda bs=1M seek=63 count=2 && echo too much was written
	python3 -c "
import mmap, os
f = os.open(\"/dev/vda\", os.O_RDWR)
m = mmap.mmap(f, 1 << 20)
m[5000:5005] = b\"hello\"
assert os.pread(f, 5, 5000) == b\"hello\"
os.pwrite(f, b\"world\", 5005)
assert m[5000:5010] == b\"helloworld\""' 2>&1 | grep -v 'records\|copied\|No space'
is 'whole megabytes' "$(dd if=disk bs=1M skip=3 2>/dev/null | head -c 10000384 | md5sum)" "$sum"
is 'odd pieces' "$(dd if=disk bs=777 skip=30000 count=1000 2>/dev/null | md5sum)" "$(dd if=ro bs=777 count=1000 2>/dev/null | md5sum)"
is 'direct writes' "$(dd if=disk bs=64K skip=600 count=10 2>/dev/null | md5sum)" "$(dd if=ro bs=64K count=10 2>/dev/null | md5sum)"
is 'a mapping' "$(dd if=disk bs=5 skip=1000 count=2 2>/dev/null)" helloworld
is 'the size is what it was' "$(stat -c %s disk)" 67108864

# The host cuts the file off while the sandbox runs.
mkfifo go up
inside --disk disk -- sh -c 'head -c 4096 /dev/vda | wc -c; echo up >&2; read x; dd if=/dev/vda of=/dev/null bs=4096 skip=10000 count=1 2>/dev/null; echo $?
	head -c 4096 /dev/vda | wc -c' < go > out 2> up &
exec 3> go
read -r line < up; truncate -s 1M disk; echo >&3; exec 3>&-
wait $!
is 'a disk that is cut off' "$(cat out | tr '\n' ' ')" '4096 1 4096 '

# Memory for a whole disk is not there: the cache gives up pages, and others get theirs.
truncate -s 512M big
is 'a disk larger than memory' "$(inside --memory 96M --disk big -- sh -c 'dd if=/dev/zero of=/dev/vda bs=1M count=200 2>&1 | grep -c copied; md5sum < /dev/vda | cut -c1-32
	python3 -c "print(len(bytearray(30 << 20)))"')" "1
aa559b4e3523a6c931f08f4df52d58f2
31457280"
cd /; rm -rf "$work"; no-leftovers || failed=1
exit $failed
