# iperf3 both ways, over IPv4 and IPv6, with several streams and UDP; socat and nc with every byte there.
#: timeout 600
#: run --memory 2G
cd /tmp || exit
iperf3 -s -p 5201 > server.log 2>&1 & server=$!
for try in $(seq 100); do grep -q ':1451 .* 0A ' /proc/net/tcp6 && break; sleep 0.1; done
run() { iperf3 -p 5201 --json "$@" > result; python3 - "$*" <<'END'
import json, sys
end = json.load(open("result"))
error = end.get("error")
said = error or ("arrived" if end["end"]["sum_received"]["bytes"] > 0 else end["end"])
print(sys.argv[1], said)
END
}
run -c 127.0.0.1 -t 2
run -c 127.0.0.1 -t 2 -R
run -c ::1 -t 2 -P 4
run -c ::1 -t 2 -R -Z
run -c 127.0.0.1 -t 2 --bidir
run -c 127.0.0.1 -n 20M -l 1000 -N
kill $server; wait $server 2> /dev/null
iperf3 -s -1 -p 5202 > /dev/null 2>&1 & sleep 1
iperf3 -c 127.0.0.1 -p 5202 -u -b 5M -t 2 --json | python3 -c 'import json, sys; print("udp", json.load(sys.stdin)["end"]["sum"]["packets"] > 0)'
wait
head -c 40000000 /dev/urandom > data; sum=$(md5sum < data)
socat -u TCP6-LISTEN:7000,reuseaddr OPEN:copy,creat & receiver=$!
for try in $(seq 100); do socat -u OPEN:data TCP6:[::1]:7000 2> /dev/null && break; sleep 0.1; done
wait $receiver; [ "$(md5sum < copy)" = "$sum" ] && echo "socat: same"
socat -T 5 UDP4-RECVFROM:7001,fork EXEC:'tr a-z A-Z' & echoer=$!
sleep 0.5; for word in one two three; do echo $word | socat -t 2 - UDP4:127.0.0.1:7001; done
kill $echoer
nc -l 127.0.0.1 7002 < data > back & listener=$!
sleep 0.5; echo request | nc -N 127.0.0.1 7002 | md5sum | grep -c "${sum%% *}"; wait $listener; cat back
nc -z -w 1 127.0.0.1 7003; echo "closed port: $?"
