# Every bad input: a clear error, its documented exit code, nothing left over.
#: timeout 300
image=/srv/debian.erofs failed=0
expect() { expect-run "$@" || failed=1; }
run() { local code=$1 pattern=$2; shift 2; expect "$code" "$pattern" -- ringfence run "$@"; }
cd "$(mktemp -d)"
run 125 'missing.erofs' --image missing.erofs -- true
run 125 '' --image / -- true
run 125 'EROFS' --image /etc/passwd -- true
: > empty; run 125 'EROFS' --image empty -- true
head -c 1048576 $image > truncated; run 125 'truncated|shorter|smaller' --image truncated -- true
head -c 1000 $image > stub; run 125 'EROFS' --image stub -- true
head -c 4194304 /dev/urandom > noise; run 125 'EROFS' --image noise -- true
cp noise scrambled; dd if=$image of=scrambled bs=1 skip=1024 seek=1024 count=128 conv=notrunc 2>/dev/null
run '120|121|125|127' '' --image scrambled -- true
run 127 'nosuch|No such' --image $image -- nosuch
run 127 '' --image $image -- /no/such/program
run 126 '' --image $image -- /etc/passwd
run 126 '' --image $image -- /etc
run 125 'cpus' --image $image --cpus 0 -- true
run 125 'cpus' --image $image --cpus 1000 -- true
run 125 'memory' --image $image --memory 0 -- true
run 125 'memory' --image $image --memory 1K -- true
run 125 'memory' --image $image --memory 99999999T -- true
run 125 'memory' --image $image --memory many -- true
run 125 'memory' --image $image --memory 512G -- true
run '125|126|127' 'wd|director' --image $image --cwd /no/such/directory -- true
run '125|126' 'user' --image $image --user nobodyatall -- true
run 125 'PROG|required' --image $image
run 125 'image' -- true
run 125 '' --image $image --no-such-option -- true
run '124' '' --image $image --timeout 1s -- sleep 60
# The smallest memory that is accepted boots, or says that it is too small.
run '0|125' '' --image $image --memory 16M -- true
# An ELF file for another machine: a real one with another e_machine, put there by the program itself.
run 126 '' --image $image -- sh -c 'cp /bin/true /tmp/arm; printf "\267" | dd of=/tmp/arm bs=1 seek=18 conv=notrunc 2>/dev/null; /tmp/arm; exit $?'
run 126 '' --image $image -- sh -c 'head -c 100 /bin/true > /tmp/short; chmod +x /tmp/short; /tmp/short; exit $?'
run 139 '' --image $image -- python3 -c 'import ctypes; ctypes.string_at(0)'
no-leftovers || failed=1
exit $failed
