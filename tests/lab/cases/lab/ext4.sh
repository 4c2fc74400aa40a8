# ext4, ext3 and ext2 mounted read-only inside: the same tree as with Linux's driver in the lab, programs that run from it, and
# what is refused.
#: timeout 600
image=/srv/debian.erofs failed=0
is() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: '$2', not '$3'"; failed=1; fi; }
inside() { ringfence run --image $image "$@"; }
work=$(mktemp -d -p /var/tmp); cd "$work"

mkdir -p tree/a/b tree/bin
cp /srv/debian/bin/bash /srv/debian/usr/bin/perl tree/bin
head -c 5000001 /dev/urandom > tree/a/random
truncate -s 20M tree/a/b/sparse; printf middle | dd of=tree/a/b/sparse bs=1 seek=9000001 conv=notrunc 2> /dev/null
ln -s ../a/random tree/bin/link; ln -s "$(printf 'x%.0s' $(seq 200))" tree/long; ln tree/a/random tree/a/again
mkdir tree/many; for n in $(seq 400); do echo $n > "tree/many/file number $n"; done
chown -R 1000:2000 tree/many; chmod 4751 tree/bin/perl; mkfifo tree/fifo; mknod tree/node c 1 3; touch -d '2001-02-03 04:05:06' tree/a
setfattr -n user.colour -v green tree/a/random 2> /dev/null
list='find . -path ./lost+found -prune -o \( -type f -exec md5sum {} + \) ; find . -path ./lost+found -prune -o -printf "%p %y %m %U %G %n %s %l %T@\n"'

for type in 'ext4' 'ext4 -b 1024' 'ext4 -O ^64bit,^metadata_csum -I 128' 'ext3' 'ext2 -b 2048'; do
	rm -f disk; truncate -s 96M disk
	mke2fs -q -t $type -d tree disk 2> /dev/null
	before=$(md5sum < disk)
	mkdir -p native; mount -o loop,ro disk native; want=$(cd native && sh -c "$list" | sort | md5sum); umount native
	is "a tree on $type" "$(inside --disk disk,ro -- sh -c "mkdir /m; mount -t ext4 -o ro /dev/vda /m && cd /m && $list" 2>&1 | sort | md5sum)" "$want"
	is "which is not changed" "$(md5sum < disk)" "$before"
done

rm -f disk; truncate -s 96M disk; mke2fs -q -t ext4 -d tree disk
is 'mount=' "$(inside --disk disk,mount=/data/x -- sh -c '
	grep /dev/vda /proc/mounts; grep -c "ext4" /proc/filesystems; stat -f -c %T /data/x
	/data/x/bin/bash -c "echo from the disk"; cmp /data/x/a/random /data/x/bin/link && echo same; dd if=/data/x/a/b/sparse bs=1 skip=9000001 count=6 2>/dev/null; echo
	python3 -c "
import mmap, hashlib
for name in [\"a/random\", \"a/b/sparse\", \"bin/perl\"]:
    with open(\"/data/x/\" + name, \"rb\") as f:
        assert hashlib.md5(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)).digest() == hashlib.md5(f.read()).digest(), name
import os
try: print(os.getxattr(\"/data/x/a/random\", \"user.colour\").decode())
except OSError as e: print(e.strerror)
"
	touch /data/x/a/new || echo refused; umount /data/x && ls /data/x | wc -l' 2>&1)" \
"/dev/vda /data/x ext4 ro 0 0
1
ext2/ext3
from the disk
same
middle
$(getfattr --only-values -n user.colour tree/a/random 2> /dev/null || echo 'No data available')
touch: cannot touch '/data/x/a/new': Read-only file system
refused
0"

is 'a mount to write' "$(inside --disk disk -- sh -c 'mkdir /m
	python3 -c "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.mount(b\"/dev/vda\", b\"/m\", b\"ext4\", 0, None), os.strerror(ctypes.get_errno()))"
	dmesg | grep -o "EXT4-fs.*"; mount -t ext4 /dev/vda /m 2>&1 | grep -o "mounted read-only"; ls /m/bin; mount -t ext4 -o ro /etc/passwd /m || true' 2>&1 | grep -v dmesg)" \
"-1 Read-only file system
EXT4-fs (vda): only read-only mounts are supported: use -o ro
mounted read-only
bash
link
perl
mount: /m: /etc/passwd is not a block device; try \"-o loop\"."

# A journal that Linux would replay.
cp disk dirty; debugfs -w -R 'feature needs_recovery' dirty > /dev/null 2>&1
is 'a journal to replay' "$(inside --disk dirty,ro -- sh -c 'mkdir /m; mount -t ext4 -o ro /dev/vda /m 2> /dev/null || echo no; mount -t ext4 -o ro,noload /dev/vda /m && ls /m/bin | wc -l' 2>&1)" 'no
3'

# Damaged ones: errors, and the sandbox goes on.
for seed in 1 2 3 4 5 6; do
	cp disk bad
	python3 -c "
import random
random.seed($seed)
with open('bad', 'r+b') as f:
    for _ in range(3000):
        f.seek(random.randrange(2048, 3 << 20)); f.write(bytes([random.randrange(256)]))"
	is "damage $seed" "$(inside --disk bad,ro --timeout 60s -- sh -c 'mkdir /m; mount -t ext4 -o ro /dev/vda /m && timeout 30 find /m -type f -size -30M -exec cat {} + > /dev/null; echo lives' 2> /dev/null)" lives
done
head -c 50M disk > short; truncate -s 50M short
is 'a file system larger than its disk' "$(inside --disk short,ro -- sh -c 'mkdir /m; mount -t ext4 -o ro /dev/vda /m 2> /dev/null; echo $?')" 32
cd /; rm -rf "$work"; no-leftovers || failed=1
exit $failed
