# Directories of the host in a sandbox: what is promised, and what a hostile program in it cannot do.
#: timeout 400
image=/srv/debian.erofs
failed=0; check() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
run() { ringfence run --image $image "$@"; }
rm -rf /var/tmp/v; mkdir -p /var/tmp/v/share/dir /var/tmp/v/outside; cd /var/tmp/v
echo secret > outside/secret; echo content > share/file; ln -s ../outside share/way-out; ln -s /etc/hostname share/absolute
volume=type=bind,src=/var/tmp/v/share,dst=/mnt/v

# Reading, writing, and whose it is.
check read "$(run --mount $volume -- cat /mnt/v/file)" content
check "write and make" "$(run --mount $volume -- sh -ec 'cd /mnt/v; echo more >> file; mkdir -p a/b; echo new > a/b/c
    mv a/b/c a/d; ln a/d a/e; ln -s e a/f; chmod 640 a/d; chown 7:8 a/d; touch -d @1000 a/e; cat a/f; rm a/d; rmdir a/b; stat -c %h:%u:%g:%a:%Y a/e')" "new
1:7:8:640:1000"
check "the host sees it" "$(cat share/file; stat -c %u:%g:%a:%Y share/a/e; readlink share/a/f; ls share/a)" "content
more
7:8:640:1000
e
e
f"
check "many names" "$(run --mount $volume -- sh -ec 'cd /mnt/v; mkdir many; cd many; seq 300 | xargs touch; ls | wc -l; rm -r /mnt/v/many; ls /mnt/v | wc -l')" "300
5"
sums=$(run --mount $volume -- sh -ec 'cd /mnt/v; head -c 5000001 /dev/urandom > big; sync; md5sum < big')
check "a large file" "$sums" "$(md5sum < share/big)"
check "and read back" "$(run --mount $volume -- md5sum /mnt/v/big | cut -c1-32)" "$(md5sum < share/big | cut -c1-32)"
check attributes "$(run --mount $volume -- python3 -c 'import os
os.setxattr("/mnt/v/file", "user.x", b"y" * 2000); print(os.listxattr("/mnt/v/file"), len(os.getxattr("/mnt/v/file", "user.x")))
try: os.setxattr("/mnt/v/file", "trusted.x", b"x")
except OSError as e: print(e.strerror)')" "['user.x'] 2000
Operation not supported"
check "and the rest" "$(run --mount $volume -- python3 -c 'import os, socket
os.chdir("/mnt/v"); fd = os.open("rest", os.O_RDWR | os.O_CREAT); os.posix_fallocate(fd, 0, 100000); os.fdatasync(fd); os.ftruncate(fd, 50000); os.fsync(fd)
print(os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_HOLE), os.fstatvfs(fd).f_namemax, os.pread(fd, 1, 49999)); os.setxattr(fd, "user.a", b"b"); os.removexattr(fd, "user.a"); print(os.listxattr(fd))
s = socket.socket(socket.AF_UNIX); s.bind("socket"); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect("socket"); os.unlink("socket"); os.close(fd); os.unlink("rest"); print("done")')" "50000 0 255 b'\x00'
[]
done"
check "one file" "$(run --mount type=bind,src=/var/tmp/v/share/file,dst=/etc/motd -- head -1 /etc/motd)" content
check "programs" "$(cp /srv/debian/bin/busybox share/ 2> /dev/null || cp /srv/debian/bin/echo share/busybox; run --mount $volume -- sh -c '/mnt/v/busybox echo ran | sed s/^echo.//')" ran

# The same by a file that describes the sandbox.
cat > config.json <<'J'
{"image": {"file": "/srv/debian.erofs"}, "container": {"process": {"args": ["sh", "-c", "cat /mnt/c/file; echo x > /mnt/c/file"], "env": ["PATH=/bin:/usr/bin"]}},
 "mounts": [{"source": "/var/tmp/v/share", "destination": "/mnt/c", "read_only": true, "cache": "none", "uid_map": [{"inside": 0, "outside": 0, "count": 1}]}]}
J
check "a file that describes it" "$(ringfence run --config-file config.json 2>&1 | sed 's/.*: //' | tail -1)" "Read-only file system"

# mmap: what is written is sent by msync, and by itself.
check mmap "$(run --mount $volume -- python3 -c 'import mmap
f = open("/mnt/v/file", "r+b"); m = mmap.mmap(f.fileno(), 0); m[0:3] = b"CON"; m.flush(); print(open("/mnt/v/file").readline().strip())')" CONtent
check "mmap on the host" "$(head -1 share/file)" CONtent
run --mount $volume -- python3 -c 'import mmap
f = open("/mnt/v/file", "r+b"); m = mmap.mmap(f.fileno(), 0); m[0:3] = b"END"'
check "mmap without msync" "$(head -1 share/file)" ENDtent

# Read-only is the gofer's business.
for mode in '' ,cache=none ,cache=always; do
    check "ro$mode" "$(run --mount $volume,ro$mode -- sh -c 'cat /mnt/v/a/e; echo x > /mnt/v/file; echo x > /mnt/v/new; rm /mnt/v/file; mount -o remount,rw /mnt/v && echo y >> /mnt/v/file; chmod 777 /mnt/v/a; mv /mnt/v/a /mnt/v/b' 2>&1 | sed 's/.*: //' | LC_ALL=C sort | uniq -c | sed 's/^ *//')" "1 I/O error
5 Read-only file system
1 new"
done
check "nothing changed" "$(head -1 share/file; ls share | tr '\n' ' ')" "ENDtent
a absolute big busybox dir file way-out "

# To read a read-only volume is no change; set-id bits are the host's to give.
touch -a -d @1000 share/a/e; run --mount $volume,ro -- cat /mnt/v/a/e > /dev/null; check "ro leaves times of access" "$(stat -c %X share/a/e)" 1000
touch -a -d @1000 share/a/e; run --no-jail --mount $volume,ro -- cat /mnt/v/a/e > /dev/null 2>&1; check "without a jail, too" "$(stat -c %X share/a/e)" 1000
program='cd /mnt/v; cp /bin/true true; chmod 6755 true; stat -c %a true; mkdir -m 2755 group; stat -c %a group'
check "set-id bits" "$(run --mount $volume -- sh -c "$program"; stat -c %a share/true; rm -r share/true share/group)" "755
2755
755"
check "set-id bits that are asked for" "$(run --mount $volume,suid -- sh -c "$program"; stat -c %a share/true; rm -r share/true share/group)" "6755
2755
6755"

# Links lead where they lead inside.
check "links" "$(run --mount $volume --hostname box -- sh -c 'cat /mnt/v/way-out/secret; cat /mnt/v/absolute' 2>&1)" "cat: /mnt/v/way-out/secret: No such file or directory
$(cat /srv/debian/etc/hostname 2> /dev/null || echo 'cat: /mnt/v/absolute: No such file or directory')"

# What the host changes.
coherent() { # options, seconds, what is expected
    echo one > share/changing; rm -f out
    run --mount $volume$1 -- sh -c 'cat /mnt/v/changing; while [ ! -e /mnt/v/dir/go ]; do sleep 0.1; done; sleep '$2'; cat /mnt/v/changing; ls /mnt/v/dir' > out & main=$!
    until [ -s out ]; do sleep 0.1; done
    echo three > share/changing; touch share/dir/go; wait $main
    check "coherence$1" "$(tr '\n' ' ' < out)" "$3"; rm share/dir/go
}
coherent "" 0 "one three go "
coherent ,cache=none 0 "one three go "

# inotify tells of what is done inside.
check inotify "$(run --mount $volume -- python3 -c 'import ctypes, os
libc = ctypes.CDLL(None); fd = libc.inotify_init(); libc.inotify_add_watch(fd, b"/mnt/v/dir", 0x100 | 0x200)
open("/mnt/v/dir/n", "w").close(); os.unlink("/mnt/v/dir/n"); d = os.read(fd, 4096)
print(len(d), int.from_bytes(d[4:8], "little"), int.from_bytes(d[36:40], "little"))')" "64 256 512"

# Locks, FIFOs and sockets between processes of the sandbox.
check "fifo and lock" "$(run --mount $volume -- sh -c 'cd /mnt/v/dir; mkfifo p; (echo through > p) & cat p; rm p; flock -n l -c "flock -n l true || echo locked"; rm l; mknod d c 1 3 || echo no device' 2> /dev/null)" "through
locked
no device"

# A live root.
mkdir root; for d in bin lib lib64 usr etc; do cp -a /srv/debian/$d root/ 2> /dev/null; done
ringfence run --rootfs root --rootfs-mode shared -- sh -c 'echo written > /etc/made-inside; id -u'
check "a shared root" "$(cat root/etc/made-inside)" written

# kill -9 of the gofer: errors inside, no hang, and nothing is left.
run --mount $volume -- sh -c 'echo up; while cat /mnt/v/file > /dev/null 2> /tmp/e; do sleep 0.1; done; sed "s/.*: //" /tmp/e; echo x 2> /dev/null > /mnt/v/new || echo still here' > out & main=$!
until grep -q up out; do sleep 0.1; done
pkill -KILL -x ringfence-gofer; wait $main
check "kill -9 of the gofer" "$? $(tr '\n' ' ' < out)" "0 up Transport endpoint is not connected still here "
rm -f out; no-leftovers || failed=1

# A sandbox without a mount has none.
run -- sleep 2 & main=$!; sleep 1
check "no gofer without a mount" "$(pgrep -c -x ringfence-gofer)" 0
wait $main

# A program that exchanges directories for links, renames and mounts, and the host looks whether anything outside changed.
seconds=${SOAK:-8}
run --mount $volume --mount type=bind,src=/var/tmp/v/share,dst=/mnt/w,cache=none --cpus 2 --timeout 300s -- python3 - $seconds <<'P'
import os, sys, time, subprocess, threading
end = time.time() + float(sys.argv[1]); d = "/mnt/v/race"; os.makedirs(d + "/inside", exist_ok=True); open(d + "/inside/secret", "w").write("public")
os.symlink("../../outside", d + "/link")
bad = []
def exchange():
    import ctypes; libc = ctypes.CDLL(None)
    while time.time() < end: libc.renameat2(-100, (d + "/inside").encode(), -100, (d + "/link").encode(), 2)
def attack():
    base = "/mnt/w/race"
    while time.time() < end:
        for path in (base + "/inside/secret", base + "/inside/../../../outside/secret", base + "/link/secret", base + "/inside/new"):
            try:
                with open(path, "r+" if "new" not in path else "w+") as f:
                    text = f.read(); f.write("public")
                    if "secret" in text.replace("public", ""): bad.append(path)
            except OSError: pass
        for call in (lambda: os.rename(base + "/inside/new", base + "/inside/.."), lambda: os.link(base + "/inside/secret", base + "/hard"), lambda: os.unlink(base + "/hard")):
            try: call()
            except OSError: pass
def mounts():
    while time.time() < end:
        subprocess.run("mount --bind /mnt/v/race/inside /mnt/w/dir && umount /mnt/w/dir; mount -t tmpfs x /mnt/w/dir && umount /mnt/w/dir", shell=True, stderr=subprocess.DEVNULL)
threads = [threading.Thread(target=t) for t in (exchange, attack, attack, mounts)]
[t.start() for t in threads]; [t.join() for t in threads]; print("bad:", bad); sys.exit(bool(bad))
P
check "races for $seconds s" "$? $(cat outside/secret; ls outside)" "0 secret
secret"
no-leftovers || failed=1
rm -rf /var/tmp/v
exit $failed
