# Another host on a TAP interface: connections and datagrams both ways by IPv4 and IPv6, errors, name servers, what ip shows, and
# checksummed transfers over a wire that loses, doubles, delays and reorders.
#: timeout 600
image=/srv/debian.erofs failed=0
work=$(mktemp -d); cd "$work"
is() { if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAIL: $1: '$2', not '$3'"; failed=1; fi; }
ns=other$$
there() { ip netns exec $ns "$@"; }
ip netns add $ns
trap 'kill $(jobs -p) 2>/dev/null; ip netns del $ns' EXIT
there ip link set lo up
there ip tuntap add dev tap0 mode tap vnet_hdr
there ip addr add 192.0.2.1/24 dev tap0
there ip addr add 2001:db8::1/64 dev tap0 nodad
there ip link set tap0 up
there sysctl -q -w net.ipv4.ping_group_range='0 2147483647'
net=tap=tap0,netns=/run/netns/$ns,ip=192.0.2.2/24,ip=2001:db8::2/64,gateway=192.0.2.1
options="--net $net --dns 192.0.2.1 --dns-search example.org --image $image"
inside() { ringfence run $options "$@"; }

# The other host: echoes what is sent, checks what is sent, sends what is asked for.
cat > other.py <<'P'
import hashlib, os, random, socket, socketserver, threading
def bytes_of(n): return random.Random(n).randbytes(n)
class Stream(socketserver.StreamRequestHandler):
    def handle(self):
        asked = self.rfile.readline().split()
        if not asked: return
        what, n = asked[0], int(asked[1])
        if what == b'get': self.wfile.write(bytes_of(n))
        elif what == b'put': self.wfile.write(hashlib.md5(self.rfile.read(n)).hexdigest().encode())
        elif what == b'reset':
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
            self.rfile.close(); self.wfile.close(); os.close(self.connection.detach())
class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads, request_queue_size = socket.AF_INET6, True, True, 50
def echo():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 7))
    while True:
        data, who = s.recvfrom(65536); s.sendto(data, who)
threading.Thread(target=echo, daemon=True).start()
Server(('::', 700), Stream).serve_forever()
P
# Waits until somebody listens there.
up() { for i in $(seq 100); do there python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], 700), 1)' $1 2>/dev/null && break; sleep 0.3; done; }
there python3 other.py & up 192.0.2.1

cat > client.py <<'P'
import hashlib, random, socket, struct, sys, time
def bytes_of(n): return random.Random(n).randbytes(n)
def ask(host, what, n, data=b''):
    s = socket.create_connection((host, 700), 60)
    s.sendall(b'%s %d\n' % (what.encode(), n) + data)
    out = b''
    while chunk := s.recv(65536): out += chunk
    return out
def error(f, *a):
    try: return f(*a)
    except OSError as e: return type(e).__name__ if e.errno != 113 else 'no route'
size = int(sys.argv[1])
for host in '192.0.2.1', '2001:db8::1':
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    print('get', ask(host, 'get', size) == bytes_of(size))
    print('put', ask(host, 'put', size, bytes_of(size)).decode() == hashlib.md5(bytes_of(size)).hexdigest())
    if size > 2000000: continue
    print('reset', error(ask, host, 'reset', 0))
    print('refused', error(socket.create_connection, (host, 9)))
    u = socket.socket(family, socket.SOCK_DGRAM); u.settimeout(5)
    for n in 0, 1, 1472, 1473, 60000:
        u.sendto(bytes_of(n), (host, 7)); assert u.recvfrom(65536)[0] == bytes_of(n), n
    u.connect((host, 9)); u.send(b'x'); time.sleep(.3); print('datagram', error(u.recv, 1))
    p = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6 if ':' in host else socket.IPPROTO_ICMP); p.settimeout(5)
    p.sendto(struct.pack('!BBHHH', 128 if ':' in host else 8, 0, 0, 0, 1) + bytes_of(3000), (host, 0)); print('ping', p.recv(9000)[8:] == bytes_of(3000))
if size < 2000000: print(error(socket.create_connection, ('192.0.2.99', 9)), error(socket.create_connection, ('203.0.113.1', 9), 1))
P
is 'to the other host' "$(inside -- python3 -c "$(cat client.py)" 1000000 2>&1)" \
'get True
put True
reset ConnectionResetError
refused ConnectionRefusedError
datagram ConnectionRefusedError
ping True
get True
put True
reset ConnectionResetError
refused ConnectionRefusedError
datagram ConnectionRefusedError
ping True
no route TimeoutError'

is 'what there is' "$(inside -- sh -c 'cat /etc/resolv.conf; PATH=$PATH:/sbin; ip -br addr show eth0 | tr -s " "; ip route; ip route get 203.0.113.1 | head -n 1; ip neigh | wc -l
	grep -c eth0 /proc/net/dev; sed -n 2p /proc/net/route | cut -c1-27')" \
'search example.org
nameserver 192.0.2.1
eth0 UP 192.0.2.2/24 2001:db8::2/64 
default via 192.0.2.1 dev eth0 
192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2 
203.0.113.1 via 192.0.2.1 dev eth0 proto unspec src 192.0.2.2 
0
1
eth0	00000000	010200C0	0003'

# A server inside.
ringfence run $options -- python3 -c "$(cat other.py)" & server=$!
up 192.0.2.2
for to in 192.0.2.2 2001:db8::2; do
	is "pings to $to" "$(there ping -q -c 3 -i 0.2 -s 4000 $to 2>&1 | grep -c ' 0% packet loss')" 1
done
sed 's/192\.0\.2\.1\>/192.0.2.2/; s/db8::1/db8::2/' client.py > outside.py
is 'from the other host' "$(there python3 outside.py 1000000 2>&1 | head -n 12)" \
'get True
put True
reset ConnectionResetError
refused ConnectionRefusedError
datagram ConnectionRefusedError
ping True
get True
put True
reset ConnectionResetError
refused ConnectionRefusedError
datagram ConnectionRefusedError
ping True'

# Trouble both ways: what leaves the other host goes through tap0, what arrives through ifb0.
for module in sch_netem sch_ingress cls_matchall act_mirred; do modprobe $module; done; modprobe ifb numifbs=0
there ip link add ifb0 type ifb && there ip link set ifb0 up
there tc qdisc add dev tap0 ingress
there tc filter add dev tap0 parent ffff: matchall action mirred egress redirect dev ifb0
for dev in tap0 ifb0; do
	there tc qdisc add dev $dev root netem delay 5ms 2ms loss 2% duplicate 1% reorder 20% 50%
done
good=$(printf 'get True\nput True\nget True\nput True')
is 'trouble, from outside' "$(there python3 outside.py 3000000 2>&1)" "$good"
kill $server; wait $server 2>/dev/null
is 'trouble, from inside' "$(inside -- python3 -c "$(cat client.py)" 3000000 2>&1)" "$good"
exit $failed
