# PostgreSQL over a unix socket: initdb, pgbench, a thousand transactions, kill -9 of a backend and recovery, clean end.
#: timeout 1800
#: run --memory 2G
#: filter s/server process with PID [0-9]+/server process with PID N/
PATH=/usr/lib/postgresql/15/bin:$PATH
install -d -o postgres /tmp/pg && cd /tmp/pg || exit
as() { setpriv --reuid postgres --regid postgres --clear-groups env PGHOST=/tmp/pg PGDATABASE=postgres "$@"; }
as initdb -D /tmp/pg/data -A trust --no-sync --no-locale -E UTF8 > initdb.log 2>&1; echo "initdb: $?"
cat >> data/postgresql.conf <<'END'
listen_addresses = ''
unix_socket_directories = '/tmp/pg'
shared_buffers = 32MB
dynamic_shared_memory_type = posix
logging_collector = off
autovacuum = off
END
wait_for() { for try in $(seq 300); do as psql -Atc 'select 1' > /dev/null 2>&1 && return; sleep 0.5; done; echo "no server"; tail -20 log; exit 1; }
as postgres -D /tmp/pg/data >> log 2>&1 & server=$!
wait_for
as psql -At <<'END'
create table t (i int primary key, s text);
insert into t select i, md5(i::text) from generate_series(1, 5000) i;
select count(*), max(s), sum(i) from t;
create index on t (s);
set enable_seqscan = off;
select i from t where s = md5('77');
begin; delete from t where i > 10; rollback;
select count(*) from t;
copy (select i from t where i < 4 order by i) to stdout;
set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
select count(*) from t where s like '%a%';
listen x; notify x, 'payload';
select pg_advisory_lock(1), pg_try_advisory_lock(1);
END
as pgbench -i -q 2>&1 | grep -c '^done in'
as pgbench -c 4 -j 2 -t 250 2>/dev/null | grep -E 'transactions actually|failed'
as psql -Atc 'select count(*), sum(delta) = (select sum(bbalance) from pgbench_branches) from pgbench_history'
as psql -Atc 'select pg_backend_pid(), pg_sleep(600)' > backend 2>&1 & client=$!
for try in $(seq 100); do
    pid=$(as psql -Atc "select pid from pg_stat_activity where query like '%pg_sleep(600)' and pid <> pg_backend_pid()")
    [ -n "$pid" ] && break; sleep 0.2
done
kill -9 $pid; wait $client; echo "client: $?"; head -1 backend
sleep 1; wait_for
grep -oE 'was terminated by signal 9: Killed|all server processes terminated; reinitializing|automatic recovery in progress|database system is ready' log
as psql -Atc 'select count(*) from pgbench_history; select count(*) from t'
as pgbench -n -S -c 2 -t 100 2>/dev/null | grep -E 'transactions actually'
as pg_dump -t t | grep -v restrict | md5sum
kill -INT $(head -1 data/postmaster.pid); wait $server; echo "server: $?"
as pg_controldata data | grep state
tail -1 log | sed 's/.*LOG/LOG/'; ls data/postmaster.pid 2> /dev/null || echo "no pid file"
