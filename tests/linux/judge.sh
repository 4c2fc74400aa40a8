#!/bin/sh
# Boots a stock Debian kernel with `ringfence boot` and lets Linux's own drivers judge our devices: pmem
# (mounted as EROFS, compared with the tree it was made from, writes refused), vsock (1 MiB echoed both ways
# at once), rng, balloon, block (two disks, one of them read-only), net (two TAP interfaces, one with an egress policy), serial.
# Runs inside the lab: judge.sh [CPUS]. Prints PASS or FAIL and exits 0 or 1.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
kernel=${KERNEL:-/boot/vmlinuz}
image=${IMAGE:-/srv/debian.erofs}
tree=${TREE:-/srv/debian}
cpus=${1:-1}
work=$(mktemp -d)
servers=
stop() {
	[ -z "$servers" ] || kill $servers
	ip link del judge0; ip link del judge1
	rm -rf "$work"
} 2> /dev/null
trap stop EXIT

root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/mnt" "$root/m"
cp "$(command -v busybox)" "$root/bin/busybox"
gcc -static -O1 -o "$root/bin/vsock_echo" "$here/vsock_echo.c"
modules="virtio_ring virtio virtio_mmio rng-core virtio-rng libnvdimm nd_virtio virtio_pmem nd_btt nd_pmem crc16
libcrc32c erofs vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport virtio_balloon virtio_blk
failover net_failover virtio_net"
order=
for m in $modules; do
	file=$(find -L "/lib/modules/$(uname -r)/" -name "$m.ko" | head -n1)
	[ -z "$file" ] && continue # built in
	cp "$file" "$root/m/"
	order="$order $m"
done
truncate -s 64M "$work/disk"
mkfs.ext4 -q "$work/disk"
head -c 3145728 /dev/urandom > "$work/ro"
# The host's side of the networks: files to fetch on both, a listener for one that is sent.
for n in 0 1; do
	ip tuntap add judge$n mode tap
	ip addr add 192.0.$((n + 2)).1/24 dev judge$n
	ip link set judge$n up
done
ip addr add 2001:db8::1/64 dev judge0 nodad
mkdir "$work/served"
head -c 4000000 /dev/urandom > "$work/served/file"
python3 -m http.server --bind :: --directory "$work/served" 8000 > /dev/null 2>&1 & servers="$servers $!"
python3 -m http.server --bind 192.0.3.1 --directory "$work/served" 8001 > /dev/null 2>&1 & servers="$servers $!"
python3 - "$work/sent" << 'PYTHON' & servers="$servers $!"
import shutil, socket, sys
with socket.create_server(("192.0.2.1", 8002)) as server:
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as source, open(sys.argv[1], "wb") as to:
            shutil.copyfileobj(source, to)
PYTHON
cat > "$work/egress" << 'JSON'
{"default": "deny", "rules": [{"action": "allow", "to": "192.0.3.1", "protocol": "tcp", "ports": "8000"}]}
JSON
(cd "$tree" && md5sum bin/bash etc/passwd usr/bin/perl) > "$root/sums"

cat > "$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in $order; do insmod /m/\$m.ko || echo "FAIL insmod \$m"; done
i=0; while [ ! -e /dev/pmem0 ] && [ \$i -lt 50 ]; do sleep 0.1; i=\$((i+1)); done
check() { if "\$@" > /tmp.out 2>&1; then echo "OK   \$*"; else echo "FAIL \$*"; cat /tmp.out; fi; }
check test "\$(nproc)" = $cpus
check mount -t erofs -o ro /dev/pmem0 /mnt
cd /mnt && check md5sum -c /sums; cd /
find /mnt -xdev | wc -l
for d in /sys/bus/virtio/devices/*; do echo "\$(basename \$(readlink \$d/driver)) status \$(cat \$d/status)"; done
# The device says read-write; the host must say no all the same.
before=\$(dd if=/dev/pmem0 bs=4096 skip=1 count=1 2>/dev/null | md5sum)
umount /mnt
dd if=/dev/zero of=/dev/pmem0 bs=4096 seek=1 count=1 conv=notrunc,fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
after=\$(dd if=/dev/pmem0 bs=4096 skip=1 count=1 2>/dev/null | md5sum)
check test "\$before" = "\$after"
check vsock_echo; cat /tmp.out
check dd if=/dev/hwrng of=/random bs=64 count=4
check test "\$(wc -c < /random)" = 256
check test "\$(tr -d '\\\\000' < /random | wc -c)" -gt 200
check test "\$(cat /sys/block/vda/size) \$(cat /sys/block/vda/ro) \$(cat /sys/block/vda/serial)" = "131072 0 judged"
check test "\$(cat /sys/block/vdb/size) \$(cat /sys/block/vdb/ro)" = "6144 1"
check test "\$(md5sum < /dev/vdb)" = "$(md5sum < "$work/ro")"
check mount -t ext4 /dev/vda /mnt
cp /bin/busybox /mnt/copy
check dd if=/dev/vdb of=/mnt/big bs=1M oflag=direct
check fstrim -v /mnt
umount /mnt
! dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync 2>/dev/null || echo FAIL: vdb was written
ip link set lo up
for n in 0 1; do
	ip addr add 192.0.\$((n + 2)).2/24 dev eth\$n
	echo 0 > /proc/sys/net/ipv6/conf/eth\$n/accept_dad
	ip link set eth\$n up
done
ip addr add 2001:db8::2/64 dev eth0
check test "\$(cat /sys/class/net/eth0/address) \$(cat /sys/class/net/eth0/mtu)" = "02:00:00:00:00:0a 1500"
check ping -c 2 -s 1400 192.0.2.1
check ping -c 2 2001:db8::1
check test "\$(wget -q -O - http://192.0.2.1:8000/file | md5sum)" = "$(md5sum < "$work/served/file")"
check test "\$(wget -q -O - http://[2001:db8::1]:8000/file | md5sum)" = "$(md5sum < "$work/served/file")"
check nc 192.0.2.1 8002 < /dev/vdb
check test "\$(wget -q -O - http://192.0.3.1:8000/file | md5sum)" = "$(md5sum < "$work/served/file")"
! timeout 5 wget -q -O - http://192.0.3.1:8001/file > /dev/null 2>&1 || echo FAIL: what the policy denies was sent
! ping -c 1 -W 2 192.0.3.1 > /dev/null 2>&1 || echo FAIL: what the policy does not know was sent
echo "eth0: \$(cat /sys/class/net/eth0/statistics/rx_packets) frames received, \$(cat /sys/class/net/eth0/statistics/tx_packets) sent"
grep -E 'virtio|ttyS' /proc/interrupts
echo JUDGED
reboot -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | busybox cpio -o -H newc) > "$work/initrd" 2>/dev/null

# QEMU 7.2 sometimes delivers an interrupt of a nested guest twice, the second time with interrupts off
# (docs/lab.md). Linux deadlocks on that in the middle of its timer code, so a boot that hangs is tried again.
sum=$(md5sum < "$image") disk=$(md5sum < "$work/ro")
for attempt in 1 2 3 4; do
	status=0
	timeout 90 ringfence boot --kernel "$kernel" --initrd "$work/initrd" --pmem "$image" --cpus "$cpus" \
		--disk "$work/disk,id=judged" --disk "$work/ro,ro,bandwidth=20M,ops=500" \
		--net tap=judge0,mac=02:00:00:00:00:0a --net "tap=judge1,egress=$work/egress,rx=20M,tx=20M" \
		--memory 256M --cmdline quiet < /dev/null > "$work/raw" || status=$?
	[ "$status" = 124 ] || break
	echo "attempt $attempt: the guest hung after: $(tail -n 1 "$work/raw")"
done
tr -d '\r' < "$work/raw" > "$work/out"
cat "$work/out"
[ "$status" = 0 ] || { echo "FAIL: ringfence boot ended with $status"; exit 1; }
[ "$sum" = "$(md5sum < "$image")" ] || { echo "FAIL: the image was changed"; exit 1; }
[ "$disk" = "$(md5sum < "$work/ro")" ] || { echo "FAIL: the read-only disk was changed"; exit 1; }
e2fsck -fn "$work/disk" > "$work/fsck" || { echo "FAIL: what Linux wrote is broken"; cat "$work/fsck"; exit 1; }
debugfs -R "dump big $work/big" "$work/disk" 2> /dev/null
cmp "$work/big" "$work/ro" || { echo "FAIL: the disk does not hold what was written"; exit 1; }
cmp "$work/sent" "$work/ro" || { echo "FAIL: the network does not carry what was sent"; exit 1; }
if grep -q '^JUDGED' "$work/out" && ! grep -q '^FAIL' "$work/out"; then echo PASS; else echo FAIL; exit 1; fi
