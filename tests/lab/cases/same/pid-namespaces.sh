# Pid namespaces: numbers, init and what it is spared, the end of a namespace, set_tid.
#: filter s/[0-9]{3,}/N/g
unshare --pid --fork sh -c 'echo $$ $PPID; readlink /proc/self/ns/pid_for_children | cut -c1-4; kill -0 1 && echo can; exit 7'; echo $?
unshare --pid --fork --mount-proc sh -c 'ps ax -o pid,comm; echo $$; readlink /proc/self; ls /proc | grep -c "^[0-9]"; grep NS /proc/self/status | grep -v cpu' | sed 's/[0-9]\{3,\}/N/g'
unshare --user --map-root-user --pid --fork --mount-proc ps ax -o pid,args
unshare --user --map-root-user --pid --fork --mount-proc sh -c 'sleep 100 & (sleep 50 &) ; sleep 0.2; ps -o pid,ppid,comm ax; kill -9 1; kill -TERM 1; echo alive; kill -9 -1; echo killed $?; ps -o pid,comm ax; exit 3'; echo $?
unshare --pid --fork sh -c 'sleep 1000 & exit 5'; echo $?; pgrep -c sleep
unshare --pid --kill-child sh -c 'exec sleep 1000' & sleep 0.3; kill -KILL $!; wait $! 2>/dev/null; echo $?; sleep 0.2; pgrep sleep | wc -l
python3 - <<'PY'
import os,signal,ctypes,time
l=ctypes.CDLL(None,use_errno=True)
def ns(): 
    assert l.unshare(0x20000000)==0
r,w=os.pipe()
pid=os.fork()
if pid==0:
    ns()
    a=os.fork()
    if a==0:
        print("init",os.getpid(),os.getppid(),os.getpgid(0)==0,os.getsid(0)); 
        b=os.fork()
        if b==0:
            print("second",os.getpid(),os.getppid())
            try: os.kill(3,0)
            except ProcessLookupError: print("nobody 3")
            os._exit(3)
        p,s=os.wait(); print(p==b,b,s)
        c=os.fork()
        if c==0:
            ns(); d=os.fork()
            if d==0:
                print("nested",os.getpid()); os._exit(0)
            print(d, os.waitpid(d,0)[0]==d)
            try: os.fork()
            except OSError as e: print("dead ns",e.errno)
            os._exit(0)
        os.waitpid(c,0)
        os.setsid(); print(os.getsid(0),os.getpgid(0))
        signal.signal(signal.SIGUSR1,lambda *x:print("usr1"))
        got=[]
        os.kill(1,signal.SIGTERM); os.kill(1,signal.SIGKILL); os.kill(os.getpid(),signal.SIGUSR1)
        os._exit(9)
    x=os.fork
    print(os.waitpid(a,0)[1])
    try: os.fork()
    except OSError as e: print("dead",e.errno)
    fd=os.open("/proc/self/ns/pid",os.O_RDONLY)
    print(l.setns(fd,0)); z=os.fork()
    if z==0: print("back",os.getpid()==z, os.getpid()>1); os._exit(0)
    os.waitpid(z,0)
    os._exit(0)
os.waitpid(pid,0)
# set_tid
import struct
def clone3(flags,tids):
    arr=(ctypes.c_int*len(tids))(*tids)
    a=(ctypes.c_uint64*11)(flags,0,0,0,17,0,0,0,ctypes.addressof(arr),len(tids),0)
    r=l.syscall(435,ctypes.byref(a),88)
    if r==0: os.write(1,b"child %d\n"%l.syscall(39)); os._exit(0)
    if r<0: return "errno %d"%ctypes.get_errno()
    os.waitpid(r,0); return r
print(clone3(0,[20000]),clone3(0,[os.getpid()]),clone3(0x20000000,[1])>1,clone3(0x20000000,[5]),clone3(0,[40000000]))
PY
