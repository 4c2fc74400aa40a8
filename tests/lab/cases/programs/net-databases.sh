# Redis and PostgreSQL over TCP, with their own benchmarks.
#: timeout 900
#: run --memory 2G
PATH=/usr/lib/postgresql/15/bin:$PATH
install -d -o postgres /tmp/pg && cd /tmp/pg || exit
redis-server --port 6379 --bind 127.0.0.1 ::1 --save '' --dir /tmp > redis.log 2>&1 & server=$!
for try in $(seq 300); do [ "$(redis-cli ping 2> /dev/null)" = PONG ] && break; sleep 0.2; done
redis-benchmark -n 4000 -c 50 -q -t get,set,incr,lpush,mset | tr '\r' '\n' | grep -cE 'requests per second, p50'
redis-benchmark -h ::1 -n 4000 -c 20 -P 16 -q -t get,set | tr '\r' '\n' | grep -cE 'requests per second, p50'
redis-cli -h ::1 set key value; redis-cli get key; redis-cli client list | grep -c 'addr=127.0.0.1'
(redis-cli subscribe channel > heard & echo $! > subscriber); for try in $(seq 100); do [ "$(redis-cli publish channel news)" = 1 ] && break; sleep 0.1; done
for try in $(seq 100); do grep -q news heard && break; sleep 0.1; done; kill "$(cat subscriber)"; grep -c news heard
redis-cli shutdown nosave; wait $server; echo "redis: $?"
as() { setpriv --reuid postgres --regid postgres --clear-groups env PGHOST=127.0.0.1 PGPASSWORD=secret PGDATABASE=postgres "$@"; }
echo secret > password
as initdb -D /tmp/pg/data -A scram-sha-256 --pwfile password --no-sync --no-locale -E UTF8 > initdb.log 2>&1; echo "initdb: $?"
printf '%s\n' "listen_addresses = 'localhost'" "unix_socket_directories = ''" 'shared_buffers = 32MB' 'logging_collector = off' >> data/postgresql.conf
as postgres -D /tmp/pg/data >> log 2>&1 & server=$!
for try in $(seq 300); do as psql -Atc 'select 1' > /dev/null 2>&1 && break; sleep 0.5; done
as psql -Atc "select inet_client_addr(), inet_server_addr(), inet_server_port()"
as psql -h ::1 -Atc "select inet_client_addr()"
as pgbench -i -q 2>&1 | grep -c '^done in'
as pgbench -c 4 -j 2 -t 100 2> /dev/null | grep -E 'transactions actually|failed'
as pgbench -n -S -C -c 2 -t 50 2> /dev/null | grep -E 'transactions actually|failed'
as env PGPASSWORD=wrong psql -c 'select 1' 2>&1 | grep -o 'password authentication failed'
kill -INT $(head -1 data/postmaster.pid); wait $server; echo "postgres: $?"
as psql -c 'select 1' 2>&1 | grep -o 'Connection refused'
