# What shows and tries networks: ip, ifconfig, netstat, ss, ping, dig with a name server, getent, hostname.
#: timeout 300
#: filter s/time[=<]?[ 0-9.]+ ?ms/time/
#: filter s/^rtt .*//
#: filter s/(RX|TX) packets [0-9]+ .*/\1/
#: filter s/^(SIOCGIFFLAGS: No such device|Cannot find device "none")/no such device/
#: filter s/127.0.0.1:[3-6][0-9]{4}/127.0.0.1:some/g
cd /tmp || exit
ip address; ip -brief link; ip -brief address; ip route; ip -6 route; ip neighbour
ip -json address | python3 -c 'import json, sys; print([(i["ifname"], i["operstate"], [a["local"] for a in i["addr_info"]]) for i in json.load(sys.stdin)])'
ifconfig lo; netstat -rn
ping -c 2 -i 0.2 127.0.0.1; ping -c 1 ::1; ping -c 1 -s 3000 localhost; ping -c 1 -W 1 192.0.2.1
unshare -n sh -c '
    ip -brief address; ping -c 1 127.0.0.1
    ip link set lo up; ip -brief address
    ip address add 10.9.8.7/24 dev lo; ip -brief address; ping -c 1 10.9.8.7
    ip address add 10.9.8.7/24 dev lo; ip address del 10.9.8.7/24 dev lo; ip -brief address
    ip link set lo down; ip -brief address; ip link set none up'
nc -l 127.0.0.1 7000 > /dev/null & listener=$!
sleep 0.5; ss -Htln 2> /dev/null | awk '{ print $1, $4 }'; netstat -tln | awk '/7000/ { print $1, $4, $6 }'
(sleep 2) | nc 127.0.0.1 7000 & sleep 0.5
ss -Htn 2> /dev/null | awk '{ print $1, $4, $5 }' | sort; kill $listener; wait
dnsmasq --keep-in-foreground --no-resolv --no-hosts --port 5353 --listen-address 127.0.0.1 --bind-interfaces --user=root \
    --address=/box.test/192.0.2.9 --txt-record=box.test,text --pid-file > dns.log 2>&1 & server=$!
for try in $(seq 100); do dig +short +tries=1 +time=1 @127.0.0.1 -p 5353 box.test > /dev/null && break; sleep 0.1; done
dig +short @127.0.0.1 -p 5353 box.test; dig +short +tcp @127.0.0.1 -p 5353 a.box.test; dig +short @127.0.0.1 -p 5353 box.test TXT
dig @127.0.0.1 -p 5353 no.test | grep -o 'status: [A-Z]*'
kill $server; wait $server; dig +tries=1 +time=1 @127.0.0.1 -p 5353 box.test | grep -o 'connection refused\|timed out' | head -1
getent ahosts localhost | awk '{ print $1, $2 }' | sort; getent services ssh; hostname -I
