# Directories of the host in the sandbox of an ordinary user: what they can do there, and no more.
#: timeout 400
image=/srv/debian.erofs
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
chmod 666 /dev/kvm
as_user() { setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
run() { as_user ringfence run --image $image "$@" 2> /tmp/u-err; }
rm -rf /var/tmp/u; mkdir -p /var/tmp/u/share /var/tmp/u/closed; cd /var/tmp/u
echo mine > share/mine; chmod 600 share/mine; echo inside > closed/file; chown -R 1000:1000 share
echo open > share/open; echo secret > share/secret; chmod 600 share/secret; chmod 700 closed
mount=type=bind,src=/var/tmp/u/share,dst=/mnt

# The caller is 0 inside, everybody else nobody.
check "reading and owners" "$(run --mount $mount -- sh -c 'id -u; cd /mnt; cat mine open; stat -c %u:%g mine open')" $'0\nmine\nopen\n0:0\n65534:65534'
check "it says what is weaker" "$(grep -c 'warning: without root' /tmp/u-err)" 1
# Root inside may do there what the caller may, whatever the guest kernel lets it (the shell's echo calls every failed write an I/O error).
check "what is not theirs" "$(run --mount $mount -- sh -c 'cd /mnt; cat secret; echo x >> secret; echo x >> open; chown 1 mine; chmod 666 open' 2>&1; sed 's/.*: //' /tmp/u-err | grep -v '^without root\|cgroups hold' | tail -5 | sort | uniq -c | tr -s ' ')" $' 2 I/O error\n 2 Operation not permitted\n 1 Permission denied'
check "making" "$(run --mount $mount -- sh -ec 'cd /mnt; echo new > new; mkdir dir; ln new dir/hard; mv dir/hard dir/moved; chmod 640 new; cat dir/moved'; stat -c %u:%g:%a share/new)" $'new\n1000:1000:640'
check "whose root inside makes it, whoever it becomes there" "$(run --mount $mount -- setpriv --reuid 5 --regid 5 --clear-groups sh -c 'touch /mnt/of-5' ; tail -1 /tmp/u-err)" ".*(Permission denied|Operation not permitted)"
check "ro" "$(run --mount $mount,ro -- sh -c 'cat /mnt/mine; echo x > /mnt/mine'; sed 's/.*: //' /tmp/u-err | tail -1)" $'mine\nRead-only file system'
check "a closed directory" "$(run --mount type=bind,src=/var/tmp/u/closed,dst=/mnt -- sh -c 'ls /mnt'; sed 's/.*: //' /tmp/u-err | tail -1)" "Permission denied"
check "behind a closed directory" "$(run --mount type=bind,src=/var/tmp/u/closed/file,dst=/mnt -- true; echo $?; tail -1 /tmp/u-err)" $'125\nringfence: cannot share /var/tmp/u/closed/file: Permission denied.*'
check "detached" "$(run -d --name mine --mount $mount -- sh -c 'echo detached > /mnt/detached; while :; do sleep 0.1; done'; for _ in $(seq 100); do [ -s share/detached ] && break; sleep 0.1; done; cat share/detached; as_user ringfence kill mine KILL)" $'mine\ndetached'

# An inode that is in use is a descriptor; what is not in use is forgotten when there are no more.
as_user mkdir share/many; (cd share/many; seq -f %04g 1500 | as_user xargs touch)
few() { local most=$1; shift; as_user prlimit --nofile=$most:$most ringfence run --image $image --mount $mount "$@" 2> /tmp/u-err; }
check "more files than descriptors" "$(few 1024 -- sh -c 'cd /mnt/many; ls -l | wc -l; for n in $(seq 20); do echo x > made-$n || exit; done; cat made-* | wc -l; ls -l | wc -l; rm -r /mnt/many; ls /mnt' | tr '\n' ' '; cat /tmp/u-err | grep -v warning)" "1501 20 1521 detached dir mine new open secret "
check "too few" "$(few 300 -- true; echo $?; tail -1 /tmp/u-err)" $'125\n.*hard limit, 300, has to be 512 at least.*'

no-leftovers || failed=1
cd /; rm -rf /var/tmp/u
exit $failed
