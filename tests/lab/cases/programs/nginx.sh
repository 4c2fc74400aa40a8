# nginx on a unix socket: static files, ranges, a large file, many at once, a proxy to itself, reload and a clean end.
#: timeout 600
#: run --memory 2G
mkdir -p /tmp/web/root/dir && cd /tmp/web || exit
cat > conf <<'END'
pid /tmp/web/pid;
error_log /tmp/web/error.log;
worker_processes 2;
events { worker_connections 256; }
http {
    access_log /tmp/web/access.log combined;
    client_body_temp_path /tmp/web/body; proxy_temp_path /tmp/web/proxy; fastcgi_temp_path /tmp/web/fastcgi;
    uwsgi_temp_path /tmp/web/uwsgi; scgi_temp_path /tmp/web/scgi;
    types { text/html html; text/plain txt; }
    sendfile on; gzip on; gzip_types text/plain; gzip_min_length 100;
    server {
        listen unix:/tmp/web/socket;
        root /tmp/web/root;
        location /dir/ { autoindex on; }
        location /proxy/ { proxy_pass http://unix:/tmp/web/socket:/; }
        location /text { return 200 "answer VERSION\n"; }
    }
}
END
sed s/VERSION/1/ conf > nginx.conf
echo '<p>hello</p>' > root/index.html; seq 20000 > root/numbers.txt; head -c 30000000 /dev/zero > root/large
chmod 755 /tmp/web; touch root/dir/a root/dir/b
get() { curl -sS --unix-socket /tmp/web/socket "$@"; }
nginx -e /tmp/web/error.log -c /tmp/web/nginx.conf -t 2>&1
nginx -e /tmp/web/error.log -c /tmp/web/nginx.conf; echo "started: $?"
get http://x/; get http://x/text
get -o /dev/null -w '%{http_code} %{size_download} %{content_type}\n' http://x/numbers.txt
get --compressed http://x/numbers.txt | md5sum
get -r 100-149 http://x/numbers.txt | tr '\n' ' '; echo
get http://x/large | md5sum
get -o /dev/null -w '%{http_code}\n' http://x/missing
get http://x/proxy/index.html; get http://x/proxy/numbers.txt | md5sum
get http://x/dir/ | grep -o '<a href="[ab]"'
seq 40 | xargs -P 8 -I{} curl -sS --unix-socket /tmp/web/socket -o /dev/null -w '%{http_code}\n' http://x/numbers.txt?{} | sort | uniq -c
sed s/VERSION/2/ conf > nginx.conf
before=$(cat pid); nginx -e /tmp/web/error.log -c /tmp/web/nginx.conf -s reload
for try in $(seq 100); do [ "$(get http://x/text)" = "answer 2" ] && break; sleep 0.2; done
get http://x/text; [ "$before" = "$(cat pid)" ] && echo same master
ps -eo user,args | grep '[n]ginx: ' | sort | uniq -c
nginx -e /tmp/web/error.log -c /tmp/web/nginx.conf -s quit
for try in $(seq 100); do [ -e pid ] || break; sleep 0.2; done
[ -e pid ] && echo "still there"
awk '{ print $9 }' access.log | sort | uniq -c
grep -vE 'notice|No such file' error.log; ls
