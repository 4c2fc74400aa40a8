# What a sandbox frees while it runs goes back to the host within seconds: anonymous memory in small and in large pages, halves
# of large pages, a file in memory, what a process had that has ended. The host's memory is what the VMM has resident.
# A machine under load may take ten times as long as a quiet one.
#: timeout 400
cat > /tmp/user.py <<'P'
import mmap, os, sys
MIB = 1 << 20
SIZE = 128 * MIB
def step(name):
    print(name, flush=True)
    sys.stdin.readline()
def fill(advice):
    m = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m.madvise(advice)
    for at in range(0, SIZE, 4096):
        m[at] = 1
    return m
step('start')
for size, advice in ('small', mmap.MADV_NOHUGEPAGE), ('large', mmap.MADV_HUGEPAGE):
    m = fill(advice)
    step(f'128 MiB in {size} pages')
    m.close()
    step('unmapped')
m = fill(mmap.MADV_HUGEPAGE)
step('128 MiB in large pages')
for at in range(0, SIZE, 2 * MIB):
    m.madvise(mmap.MADV_DONTNEED, at, MIB)
step('half of each dropped')
m.close()
step('unmapped')
with open('/tmp/file', 'wb') as f:
    for _ in range(100):
        f.write(bytes(MIB))
step('a file of 100 MiB')
os.unlink('/tmp/file')
step('deleted')
if os.fork() == 0:
    m = fill(mmap.MADV_HUGEPAGE)
    os._exit(0)
os.wait()
step('a process that had 128 MiB has ended')
P
coproc SANDBOX { exec ringfence run --image /srv/debian.erofs --memory 256M -- python3 -c "$(cat /tmp/user.py)"; }
# Without the pages of the image: they are mapped from the host's page cache, so the sandbox has no page cache to give back.
rss() { awk '/^Rss(Anon|Shmem):/ { sum += $2 } END { print int(sum / 1024) }' "/proc/$(pgrep -x ringfence-vmm)/status"; }
bad=0
# Says how much the VMM has; if it is to be at most $2 MiB, waits at most a minute for that.
look() {
    local start=$SECONDS has
    for _ in $(seq 300); do
        has=$(rss)
        [ "$has" -le "$2" ] && break
        sleep 0.2
    done
    echo "$1: $has MiB after $((SECONDS - start)) s"
    [ "$has" -le "$2" ] || { echo "FAIL: more than $2 MiB"; bad=1; }
    [ "$has" -ge "$3" ] || { echo "FAIL: less than $3 MiB: not what was to be seen"; bad=1; }
}
while read -r name <&"${SANDBOX[0]}"; do
    case $name in
    *128*pages) look "$name" 9999 125 ;;
    a\ file*) look "$name" 9999 100 ;;
    half*) look "$name" $((limit + 70)) 60 ;;
    start) base=$(rss); limit=$((base + 16)); look "$name" 9999 0 ;;
    *) look "$name" $limit 0 ;;
    esac
    echo >&"${SANDBOX[1]}"
done
exit $bad
