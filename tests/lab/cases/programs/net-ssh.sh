# OpenSSH: commands, a terminal, scp, sftp, rsync, forwarded ports, a connection that others share.
#: timeout 600
#: run --memory 1G
mkdir -p /run/sshd /tmp/ssh && cd /tmp/ssh || exit
ssh-keygen -q -t ed25519 -N '' -f key; ssh-keygen -q -t ed25519 -N '' -f host; cp key.pub authorized
/usr/sbin/sshd -D -f /dev/null -p 2222 -h /tmp/ssh/host -o AuthorizedKeysFile=/tmp/ssh/authorized -o StrictModes=no -o UsePAM=no \
    -o PidFile=none -o Subsystem='sftp internal-sftp' -E sshd.log & server=$!
cat > config <<'END'
Host box
    HostName 127.0.0.1
    Port 2222
    User root
    IdentityFile /tmp/ssh/key
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
END
s() { ssh -F config "$@"; }
for try in $(seq 100); do s box true 2> /dev/null && break; sleep 0.2; done
s box 'echo hello; id -u; exit 7'; echo "code: $?"
echo "through it" | s box cat
s -tt box 'tty | tr -d 0-9; test -t 0 && echo terminal' < /dev/null | tr -d '\r'
head -c 20000000 /dev/urandom > data; sum=$(md5sum < data)
[ "$(s box cat < data | md5sum)" = "$sum" ] && echo same
scp -q -F config data box:/tmp/ssh/copied; cmp data copied && echo copied
echo "get /tmp/ssh/data got" | sftp -q -F config -b - box > /dev/null; cmp data got && echo got
mkdir tree; for i in $(seq 50); do echo $i > tree/$i; done
rsync -a -e 'ssh -F config' tree/ box:/tmp/ssh/mirror/; diff -r tree mirror && echo mirrored
python3 -m http.server --bind 127.0.0.1 --directory tree 8000 > /dev/null 2>&1 & web=$!
s -N -L 8001:127.0.0.1:8000 box & tunnel=$!
for try in $(seq 100); do curl -s -o /dev/null http://127.0.0.1:8001/7 && break; sleep 0.2; done
curl -sS http://127.0.0.1:8001/7; kill $tunnel; wait $tunnel 2> /dev/null
s -o ControlPath=/tmp/ssh/shared -o ControlMaster=yes -o ControlPersist=yes box true
for i in 1 2 3; do s -o ControlPath=/tmp/ssh/shared box "echo shared $i"; done
s -o ControlPath=/tmp/ssh/shared -O exit box 2>&1
ssh -F config -o IdentityFile=none -o IdentitiesOnly=yes -o BatchMode=yes box true 2>&1 | grep -o 'Permission denied'
kill $web $server; wait $server 2> /dev/null; echo "server: $?"
