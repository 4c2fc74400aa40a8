# Redis over a unix socket: data types, an append-only file and its rewriting, a background snapshot, kill -9 and recovery.
#: timeout 600
#: run --memory 2G
mkdir /tmp/redis && cd /tmp/redis || exit
cli() { redis-cli -s socket "$@"; }
start() {
    redis-server --port 0 --unixsocket /tmp/redis/socket --dir /tmp/redis --appendonly yes --appendfsync always \
        --save '' >> log 2>&1 &
    server=$!
    for try in $(seq 300); do
        [ "$(cli ping 2>&1)" = PONG ] && return
        sleep 0.2
    done
    echo "no server"; cat log; exit 1
}
start
for i in $(seq 1 2000); do echo "SET key:$i value-$i"; echo "LPUSH list $i"; echo "ZADD scores $i member-$i"; done |
    cli --pipe | tail -1
cli incrby counter 41; cli incr counter
cli get key:1234; cli llen list; cli zrange scores 0 4 withscores
cli hset hash a 1 b 2; cli hgetall hash | sort
cli setrange big 1000000 end; cli strlen big
cli eval 'return redis.call("GET", KEYS[1]) .. ARGV[1]' 1 key:7 -scripted
cli config set save '' ; cli bgsave
until [ "$(cli info persistence | tr -d '\r' | grep rdb_bgsave_in_progress)" = rdb_bgsave_in_progress:0 ]; do sleep 0.2; done
cli info persistence | tr -d '\r' | grep -E 'rdb_last_bgsave_status|rdb_saves'
redis-check-rdb dump.rdb | grep -E 'OK|keys read'
cli bgrewriteaof
until [ "$(cli info persistence | tr -d '\r' | grep -E '^aof_rewrite_(in_progress|scheduled)' | sort)" = "aof_rewrite_in_progress:0
aof_rewrite_scheduled:0" ]; do sleep 0.2; done
cli info persistence | tr -d '\r' | grep aof_last_bgrewrite_status
cli set after rewrite
kill -9 $server; wait $server 2> /dev/null; echo "killed: $?"
start
cli get after; cli dbsize; cli get counter; cli lindex list 0
redis-benchmark -s socket -n 2000 -c 20 -q -t get,set,lpush,mset -P 4 | tr '\r' '\n' | grep -cE 'requests per second, p50'
cli shutdown nosave; wait $server; echo "ended: $?"
ls
