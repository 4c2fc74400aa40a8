# The host's side of networks: a TAP interface by name, in a namespace and as a descriptor; passt, published ports, the
# egress policy, and that nothing is left of them. The namespace `host` stands for the host, `peer` for the rest of the world.
#: timeout 400
failed=0; check() { if [[ "$2" =~ ^($3)$ ]]; then echo "ok: $1 ($2)"; else echo "FAIL: $1: $2, expected $3"; failed=1; fi; }
in_ns() { nsenter --net=/run/netns/$1 "${@:2}"; }
sandbox() { ringfence run --image /srv/debian.erofs "$@"; }
work=$(mktemp -d)
background=
stop() { kill $background; umount /etc/resolv.conf; ip netns del host; ip netns del peer; ip link del t0; rm -rf "$work"; } 2> /dev/null
trap stop EXIT
busybox modprobe -a veth
ip netns add host; ip netns add peer
ip link add v0 netns host type veth peer name v1 netns peer
ip -n host addr add 203.0.114.2/24 dev v0; ip -n peer addr add 203.0.114.1/24 dev v1; ip -n peer addr add 10.1.1.1/24 dev v1
ip -n host addr add 2001:db9::2/64 dev v0 nodad; ip -n peer addr add 2001:db9::1/64 dev v1 nodad
for n in host peer; do ip -n $n link set lo up; done
ip -n host link set v0 up; ip -n peer link set v1 up
ip -n host route add default via 203.0.114.1; ip -n host -6 route add default via 2001:db9::1
echo nameserver 127.0.0.1 > "$work/resolv.conf"; mount --bind "$work/resolv.conf" /etc/resolv.conf
# Sends what it has to whoever comes.
cat > "$work/serve.py" << 'PYTHON'
import socket, sys
data = open(sys.argv[2], "rb").read()
with socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    while True:
        with server.accept()[0] as one:
            one.sendall(data)
PYTHON
# Answers every question for an IPv4 address with 203.0.114.1, others with nothing.
cat > "$work/names.py" << 'PYTHON'
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 53))
while True:
    q, a = s.recvfrom(512)
    if q[-4:-2] != b"\0\1":
        s.sendto(q[:2] + b"\x81\x80\0\1\0\0\0\0\0\0" + q[12:], a)
        continue
    s.sendto(q[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + q[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xcb\0\x72\1", a)
PYTHON
head -c 3000000 /dev/urandom > "$work/data"; sum=$(md5sum < "$work/data")
in_ns peer python3 "$work/serve.py" 8000 "$work/data" & background="$background $!"
in_ns host python3 "$work/serve.py" 7000 "$work/data" & background="$background $!"
in_ns host python3 "$work/names.py" & background="$background $!"
sleep 2
take='import socket, sys, hashlib
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=8); d = b""
while True:
    p = s.recv(65536)
    if not p: break
    d += p
print(hashlib.md5(d).hexdigest() + "  -")'

# What goes wrong is told before anything runs.
sandbox --net passt -- true 2> "$work/err"; check "no default route" "$? $(grep -c 'no default route' "$work/err")" "125 1"
in_ns host ringfence run --image /srv/debian.erofs --net passt --publish 80:80 -- true 2> /dev/null; check "a port for root" $? 125
in_ns host ringfence run --image /srv/debian.erofs --net passt --publish 7000:80 -- true 2> /dev/null; check "a port in use" $? 125
sandbox --net tap=a/b -- true 2> /dev/null; check "no name" $? 125
sandbox --net tap=fd:9 -- true 2> /dev/null 9< /dev/null; check "no TAP interface" $? 125
sandbox --publish 8080:80 -- true 2> /dev/null; check "published by nobody" $? 125

# passt, and what the guest has by it.
sandbox --net passt,netns=/run/netns/host --publish 8080:80 --publish 127.0.0.1:8081:80 --name pub -- \
    python3 -c 'import socket, subprocess
s = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    with s.accept()[0] as one: one.recv(1); one.sendall(b"from inside")' 2> "$work/err" & pub=$!
# Until it listens.
for i in $(seq 100); do ringfence exec pub -- grep -q ':0050 .* 0A ' /proc/net/tcp6 2> /dev/null && break; sleep 0.2; done
# Even before the guest has said anything, connections to a published port are answered, wherever they come from. The client speaks first: docs/networking.md.
get='import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=8); s.send(b"?"); print(s.recv(99).decode())'
check "published, on the host" "$(in_ns host python3 -c "$get" 127.0.0.1 8080 2>&1 | tail -n 1)" "from inside"
check "published, on one address" "$(in_ns host python3 -c "$get" 127.0.0.1 8081 2>&1 | tail -n 1)" "from inside"
check "published, to others" "$(in_ns peer python3 -c "$get" 203.0.114.2 8080 2>&1 | tail -n 1)" "from inside"
check "and not there" "$(in_ns peer python3 -c "$get" 203.0.114.2 8081 2>&1 | tail -n 1)" ".*refused.*"
inside() { timeout 30 ringfence exec pub -- python3 -c "$take" "$@" 2>&1 | tail -n 1; }
check "IPv4" "$(inside 203.0.114.1 8000)" "$sum"
check "IPv6" "$(inside 2001:db9::1 8000)" "$sum"
check "a name" "$(inside name.example 8000)" "$sum"
check "the policy: a private address" "$(inside 10.1.1.1 8000)" '.*(timed out|unreachable).*'
check "the policy: the host by the gateway" "$(inside 203.0.114.1 7000)" '.*(refused|timed out).*'
check "counted" "$(ringfence stats pub --format json | python3 -c 'import json, sys
i = json.load(sys.stdin)["interfaces"][0]; print(i["tx_denied"] > 0, i["rx_bytes"] > 3000000)')" "True True"
cgroup=/sys/fs/cgroup/ringfence/pub
check "passt is in the sandbox's cgroup" "$(grep -c . "$cgroup/cgroup.procs" > /dev/null; grep -cx "$(pgrep -x 'passt.*')" "$cgroup/cgroup.procs")" 1
check "under its id" "$(stat -c %u /proc/$(pgrep -x 'passt.*'))" "$(stat -c %u /proc/$(pgrep -x ringfence-vmm))|0"
ringfence kill pub KILL 2> /dev/null || kill -9 $pub; wait $pub
for i in $(seq 20); do pgrep -x 'passt.*' > /dev/null || break; sleep 0.1; done
check "passt has gone" "$(pgrep -cx 'passt.*')" 0

# Whoever is killed, it goes along.
for who in ringfence ringfence-mon ringfence-vmm; do
    ringfence run --image /srv/debian.erofs --net passt,netns=/run/netns/host -- sleep 60 2> /dev/null & one=$!
    for i in $(seq 50); do pgrep -x ringfence-vmm > /dev/null && break; sleep 0.1; done
    sleep 0.5
    case $who in ringfence) kill -9 $one;; *) kill -9 $(pgrep -x $who);; esac
    wait $one 2> /dev/null
    for i in $(seq 20); do pgrep -x 'passt.*' > /dev/null || break; sleep 0.1; done
    check "passt when $who is killed" "$(pgrep -cx 'passt.*')" 0
done

# TAP interfaces: here, in a namespace, as a descriptor.
ip tuntap add t0 mode tap; ip addr add 192.0.2.1/24 dev t0; ip link set t0 up
python3 "$work/serve.py" 8000 "$work/data" & background="$background $!"
sleep 1
check "TAP" "$(sandbox --net tap=t0,ip=192.0.2.2/24 -- python3 -c "$take" 192.0.2.1 8000 2>&1 | tail -n 1)" "$sum"
echo '{"default": "deny", "rules": [{"action": "allow", "to": "192.0.2.0/24", "protocol": "tcp", "ports": "7999"}]}' > "$work/policy"
check "TAP, a policy" "$(sandbox --net tap=t0,ip=192.0.2.2/24,egress="$work/policy" -- python3 -c "$take" 192.0.2.1 8000 2>&1 | tail -n 1)" '.*timed out.*'
ip -n host tuntap add t1 mode tap; ip -n host addr add 192.0.3.1/24 dev t1; ip -n host link set t1 up
check "TAP in a namespace" "$(sandbox --net tap=t1,netns=/run/netns/host,ip=192.0.3.2/24 -- python3 -c "$take" 192.0.3.1 7000 2>&1 | tail -n 1)" "$sum"
check "TAP as a descriptor" "$(python3 -c 'import fcntl, os, struct, subprocess, sys
f = os.open("/dev/net/tun", os.O_RDWR); fcntl.ioctl(f, 0x400454ca, struct.pack("16sH22x", b"t0", 0x2 | 0x1000 | 0x4000))
os.set_inheritable(f, True)
subprocess.run(["ringfence", "run", "--image", "/srv/debian.erofs", "--net", f"tap=fd:{f},ip=192.0.2.2/24", "--", "python3", "-c", *sys.argv[1:]], close_fds=False)' \
    "$take" 192.0.2.1 8000 2>&1 | tail -n 1)" "$sum"
check "limits" "$(sandbox --net tap=t0,ip=192.0.2.2/24,rx=20M,tx=20M -- python3 -c "$take" 192.0.2.1 8000 2>&1 | tail -n 1)" "$sum"
no-leftovers || failed=1
exit $failed
