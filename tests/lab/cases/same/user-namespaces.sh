# User and uts namespaces: maps, ids as they are shown, capabilities in a namespace, and what they do not reach.
#: filter s/^none on .mnt.*/none/
hostname; unshare -u sh -c 'hostname inner; hostname; cat /proc/sys/kernel/hostname; readlink /proc/self/ns/uts /proc/1/ns/uts | uniq | wc -l'; hostname
readlink /proc/self/ns/mnt | cut -c1-5
mkdir -p /tmp/x; touch /tmp/x/u; unshare --uts=/tmp/x/u hostname other; nsenter --uts=/tmp/x/u hostname; umount /tmp/x/u; stat -L -c %i /proc/self/ns/user
id -u; unshare -U id -u; unshare -U sh -c 'id -u; id -g; cat /proc/self/uid_map; stat -c "%u %g" /etc/passwd; chown 5 /tmp 2>&1'
unshare -U -r sh -c 'id -u; cat /proc/self/uid_map /proc/self/setgroups; stat -c "%u %g" /etc/passwd; touch /tmp/f1; stat -c "%u" /tmp/f1; hostname x 2>&1; grep Cap /proc/self/status; mount -t tmpfs none /mnt 2>&1 | head -1'
unshare -U -r -m -u sh -c 'hostname in; hostname; mount -t tmpfs none /mnt && touch /mnt/x && stat -c "%u %U" /mnt/x; mount | tail -1; mknod /mnt/n c 1 3'
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'unshare -U -r sh -c "id; touch /tmp/mine; stat -c %u /tmp/mine; cat /etc/shadow; chown 1 /tmp/mine; kill -0 1; cat /proc/self/gid_map"; stat -c %u /tmp/mine; unshare -u true; unshare -Ur unshare -u true && echo ok' 2>&1
setpriv --reuid 1000 --regid 1000 --clear-groups python3 -c '
import os,ctypes
l=ctypes.CDLL(None,use_errno=True)
print(l.unshare(0x10000000)); print(os.getuid(),os.getgroups())
for f,t in (("uid_map","0 0 1"),("uid_map","0 1000 2"),("uid_map","5 1000 1"),("uid_map","5 1000 1"),("gid_map","0 1000 1"),("setgroups","deny"),("gid_map","0 1000 1"),("setgroups","allow")):
  try:
    open("/proc/self/"+f,"w").write(t); print(f,t,"ok")
  except OSError as e: print(f,t,e.errno)
print(os.getresuid(),os.getresgid())
for a in (0,5,1000):
  try: os.setuid(a); print("setuid",a)
  except OSError as e: print(a,e.errno)
try: os.setgroups([0])
except OSError as e: print(e.errno)
'
