# nginx over TCP, IPv4 and IPv6: curl, wget, wrk; uploads, keep-alive, a large file with its checksum, a Python server.
#: timeout 600
#: run --memory 2G
#: filter s/after [0-9]+ ms/after some ms/
mkdir -p /tmp/web/root /tmp/web/dav && cd /tmp/web || exit
cat > nginx.conf <<'END'
pid /tmp/web/pid;
user root;
error_log /tmp/web/error.log;
worker_processes 2;
events { worker_connections 512; }
http {
    access_log /tmp/web/access.log;
    client_body_temp_path /tmp/web/body; proxy_temp_path /tmp/web/proxy; fastcgi_temp_path /tmp/web/fastcgi;
    uwsgi_temp_path /tmp/web/uwsgi; scgi_temp_path /tmp/web/scgi;
    client_max_body_size 100m;
    server {
        listen 127.0.0.1:8080 reuseport; listen [::1]:8080 reuseport;
        sendfile on; tcp_nopush on;
        root /tmp/web/root;
        location /who { return 200 "$remote_addr to $server_addr:$server_port\n"; }
        location /dav/ { root /tmp/web; dav_methods PUT; }
        location /proxy/ { proxy_pass http://127.0.0.1:8080/; }
    }
}
END
head -c 30000000 /dev/urandom > root/large; sum=$(md5sum < root/large); echo hello > root/hello
same() { [ "$(md5sum)" = "$sum" ] && echo same || echo different; }
nginx -e /tmp/web/error.log -c /tmp/web/nginx.conf; echo "started: $?"
for host in 127.0.0.1 '[::1]' localhost; do
    curl -sS "http://$host:8080/who"; curl -sS "http://$host:8080/large" | same
    wget -q -O - "http://$host:8080/large" | same
done
curl -sS http://127.0.0.1:8080/hello http://127.0.0.1:8080/who http://127.0.0.1:8080/hello -w '%{num_connects}\n'
curl -sS http://127.0.0.1:8080/proxy/large | same
curl -sS -T root/large http://127.0.0.1:8080/dav/up -w '%{http_code}\n'; same < dav/up
curl -sS --interface 127.0.0.5 http://127.0.0.1:8080/who
curl -sS --local-port 5000-5010 http://127.0.0.1:8080/who
seq 60 | xargs -P 12 -I{} curl -sS -o /dev/null -w '%{http_code} %{size_download}\n' http://127.0.0.1:8080/large?{} | sort | uniq -c
wrk -t 2 -c 40 -d 3s http://127.0.0.1:8080/hello > wrk; grep -cE 'Requests/sec: +[1-9]' wrk; grep -E 'Socket errors|Non-2xx' wrk
nginx -e /tmp/web/error.log -c /tmp/web/nginx.conf -s quit
for try in $(seq 100); do [ -e pid ] || break; sleep 0.2; done
curl -sS http://127.0.0.1:8080/hello; echo "gone: $?"
curl -sS --max-time 5 http://192.0.2.1/; echo "no such network: $?"
grep -vE 'notice|No such file' error.log
python3 -m http.server --bind ::1 --directory root 8081 2> log & server=$!
for try in $(seq 100); do curl -sS -o /dev/null 'http://[::1]:8081/hello' 2> /dev/null && break; sleep 0.2; done
curl -sS 'http://[::1]:8081/large' | same
kill $server; wait $server; echo "server: $?"
