# SysV shared memory, semaphores and messages: ids, limits, waiting, undoing, permissions.
#: timeout 60
cat > /tmp/sv.c <<'C'
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void say(const char *what, long n) { printf("%s: %ld%s%s\n", what, n, n < 0 ? " " : "", n < 0 ? strerror(errno) : ""); }
#define CHILD(...) do { fflush(stdout); pid_t c_ = fork(); if (!c_) { __VA_ARGS__; fflush(stdout); _exit(0); } int st_; waitpid(c_, &st_, 0); } while (0)
static void nothing(int s) {}
static long stat_attached(int id) { struct shmid_ds d; shmctl(id, IPC_STAT, &d); return d.shm_nattch; }
union semun { int val; void *p; };
int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0); struct sigaction sa = {.sa_handler = nothing, .sa_flags = SA_RESTART}; sigaction(SIGALRM, &sa, 0);
    puts("-- shm"); struct shmid_ds d; char *a, *b;
    int id = shmget(1234, 10000, IPC_CREAT | 0640); say("first", id); say("again", shmget(1234, 5000, 0)); say("too large", shmget(1234, 20000, 0)); say("exclusive", shmget(1234, 1, IPC_CREAT | IPC_EXCL)); say("missing", shmget(99, 1, 0)); say("size 0", shmget(IPC_PRIVATE, 0, 0600)); say("private", shmget(IPC_PRIVATE, 1, 0600)); say("private", shmget(IPC_PRIVATE, 1, 0600));
    shmctl(id, IPC_STAT, &d); printf("size %zu mode %o attached %ld mine %d times %d %d %d key %x\n", d.shm_segsz, d.shm_perm.mode, (long)d.shm_nattch, d.shm_cpid == getpid(), d.shm_atime > 0, d.shm_dtime > 0, d.shm_ctime > 0, d.shm_perm.__key);
    a = shmat(id, 0, 0); b = shmat(id, 0, SHM_RDONLY); say("attached", stat_attached(id)); strcpy(a, "shared"); printf("%s\n", b); CHILD(say("in child", stat_attached(id)); strcpy(a + 9000, "by child")); say("after child", stat_attached(id)); printf("%s\n", b + 9000); CHILD(signal(SIGSEGV, SIG_DFL); b[0] = 1); say("mprotect", mprotect(b, 4096, PROT_READ | PROT_WRITE)); mprotect(a + 4096, 4096, PROT_READ); say("split", stat_attached(id)); say("detach", shmdt(a)); say("attached", stat_attached(id)); say("detach again", shmdt(a)); say("detach inside", shmdt(b + 4096)); say("unaligned", shmdt(b + 1));
    say("remove", shmctl(id, IPC_RMID, 0)); shmctl(id, IPC_STAT, &d); printf("mode %o key %x\n", d.shm_perm.mode, d.shm_perm.__key); say("no key", shmget(1234, 1, 0)); a = shmat(id, 0, 0); printf("still %s\n", a); shmdt(a); shmdt(b); say("gone", shmctl(id, IPC_STAT, &d)); say("new", id = shmget(1234, 4096, IPC_CREAT | 0600));
    say("bad id", (long)shmat(77, 0, 0)); say("bad address", (long)shmat(id, (void *)4097, 0)); a = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); say("taken", (long)shmat(id, a, 0)); printf("remap %d\n", shmat(id, a, SHM_REMAP) == a); munmap(a, 8192); say("unmapped", stat_attached(id)); printf("rounded %d\n", shmat(id, a + 5, SHM_RND) == a); shmdt(a);
    CHILD(setgid(1000); setuid(1000); say("other attaches", (long)shmat(id, 0, 0)); say("other stat", shmctl(id, IPC_STAT, &d)); say("other removes", shmctl(id, IPC_RMID, 0)); say("other gets", shmget(1234, 1, 0600)); say("other gets, no mode", shmget(1234, 1, 0)); say("other sets", shmctl(id, IPC_SET, &d)));
    shmctl(id, IPC_STAT, &d); d.shm_perm.uid = 1000; d.shm_perm.mode = 0666; say("set", shmctl(id, IPC_SET, &d)); CHILD(setuid(1000); say("owner stat", shmctl(id, IPC_STAT, &d)); printf("mode %o uid %d cuid %d\n", d.shm_perm.mode, d.shm_perm.uid, d.shm_perm.cuid); say("owner removes", shmctl(id, IPC_RMID, 0)));
    struct shminfo si; say("info", shmctl(0, IPC_INFO, (void *)&si)); printf("%lx %lu %lu %lu %lx\n", si.shmmax, si.shmmin, si.shmmni, si.shmseg, si.shmall); struct shm_info sx; say("shm_info", shmctl(0, SHM_INFO, (void *)&sx)); printf("%d %lu\n", sx.used_ids, sx.shm_tot); say("stat by index", shmctl(1, SHM_STAT, &d)); say("stat no index", shmctl(40, SHM_STAT, &d)); say("command", shmctl(1, 99, &d)); say("lock", shmctl(1, SHM_LOCK, 0)); shmctl(1, IPC_STAT, &d); printf("mode %o\n", d.shm_perm.mode); say("pointer", shmctl(1, IPC_STAT, (void *)8)); say("negative", shmctl(-1, IPC_STAT, &d));
    puts("-- sem"); struct sembuf op[3]; unsigned short v[5]; struct semid_ds sd; union semun u;
    int s = semget(4321, 3, IPC_CREAT | 0600); say("first", s); say("fewer", semget(4321, 2, 0)); say("more", semget(4321, 4, 0)); say("none", semget(IPC_PRIVATE, 0, 0600)); say("many", semget(IPC_PRIVATE, 40000, 0600)); u.val = 2; say("setval", semctl(s, 0, SETVAL, u)); say("getval", semctl(s, 0, GETVAL)); say("pid", semctl(s, 0, GETPID) == getpid()); u.val = 40000; say("range", semctl(s, 0, SETVAL, u)); say("number", semctl(s, 3, GETVAL)); v[0] = 5; v[1] = 6; v[2] = 7; u.p = v; say("setall", semctl(s, 0, SETALL, u)); memset(v, 0, sizeof v); semctl(s, 0, GETALL, u); printf("%d %d %d\n", v[0], v[1], v[2]);
#define OP(i, n, c, f) op[i] = (struct sembuf){n, c, f}
    OP(0, 0, -5, 0); OP(1, 1, -7, IPC_NOWAIT); say("all or none", semop(s, op, 2)); say("kept", semctl(s, 0, GETVAL)); OP(1, 1, -6, 0); say("both", semop(s, op, 2)); OP(0, 0, 0, 0); say("zero", semop(s, op, 1)); OP(0, 2, 0, IPC_NOWAIT); say("not zero", semop(s, op, 1)); OP(0, 3, 1, 0); say("number", semop(s, op, 1)); say("no ops", semop(s, op, 0)); say("many ops", semop(s, op, 501)); OP(0, 2, 32767, 0); say("overflow", semop(s, op, 1)); say("pointer", semop(s, (void *)8, 1)); say("bad id", semop(99, op, 1));
    struct timespec ts = {0, 20000000}; OP(0, 0, -1, 0); say("time out", semtimedop(s, op, 1, &ts)); ts.tv_nsec = -1; say("bad time", semtimedop(s, op, 1, &ts)); ualarm(20000, 0); say("interrupted", semop(s, op, 1));
    fflush(stdout); pid_t c = fork(); if (!c) { OP(0, 0, -1, 0); say("child woke", semop(s, op, 1)); OP(0, 0, 0, 0); say("child zero", semop(s, op, 1)); _exit(0); } while (semctl(s, 0, GETNCNT) != 1) usleep(1000); say("waiting", semctl(s, 0, GETNCNT)); OP(0, 0, 2, 0); semop(s, op, 1); while (semctl(s, 0, GETZCNT) != 1) usleep(1000); say("for zero", semctl(s, 0, GETZCNT)); u.val = 0; semctl(s, 0, SETVAL, u); waitpid(c, 0, 0);
    u.val = 3; semctl(s, 0, SETVAL, u); CHILD(OP(0, 0, -2, SEM_UNDO); semop(s, op, 1); OP(0, 1, 4, SEM_UNDO); semop(s, op, 1); say("in child", semctl(s, 0, GETVAL))); say("undone", semctl(s, 0, GETVAL)); say("undone up", semctl(s, 1, GETVAL)); CHILD(OP(0, 0, -2, SEM_UNDO); semop(s, op, 1); u.val = 9; semctl(s, 0, SETVAL, u)); say("setval clears", semctl(s, 0, GETVAL)); CHILD(OP(0, 2, -32767, SEM_UNDO); u.val = 32767; semctl(s, 2, SETVAL, u); say("max", semop(s, op, 1)); u.val = 5; OP(0, 2, 1, SEM_UNDO); say("undo within", semop(s, op, 1))); say("after", semctl(s, 2, GETVAL));
    CHILD(setuid(1000); OP(0, 0, 1, 0); say("other", semop(s, op, 1)); say("other get", semget(4321, 0, 0400)); say("other val", semctl(s, 0, GETVAL)); say("other remove", semctl(s, 0, IPC_RMID))); u.p = &sd; say("stat", semctl(s, 0, IPC_STAT, u)); printf("%lu %o %d %d\n", sd.sem_nsems, sd.sem_perm.mode, sd.sem_otime > 0, sd.sem_ctime > 0);
    struct seminfo inf; u.p = &inf; say("info", semctl(0, 0, IPC_INFO, u)); printf("%d %d %d %d %d %d %d %d %d %d\n", inf.semmap, inf.semmni, inf.semmns, inf.semmnu, inf.semmsl, inf.semopm, inf.semume, inf.semusz, inf.semvmx, inf.semaem); say("sem_info", semctl(0, 0, SEM_INFO, u)); printf("%d %d\n", inf.semusz, inf.semaem);
    fflush(stdout); c = fork(); if (!c) { OP(0, 0, -20000, 0); say("removed", semop(s, op, 1)); _exit(0); } while (semctl(s, 0, GETNCNT) != 1) usleep(1000); say("remove", semctl(s, 0, IPC_RMID)); waitpid(c, 0, 0); say("gone", semop(s, op, 1));
    puts("-- msg"); struct { long t; char b[9000]; } m; struct msqid_ds md;
    int q = msgget(777, IPC_CREAT | 0600); say("first", q); m.t = 3; strcpy(m.b, "three"); say("send", msgsnd(q, &m, 6, 0)); m.t = 1; strcpy(m.b, "one"); msgsnd(q, &m, 4, 0); m.t = 2; strcpy(m.b, "two"); msgsnd(q, &m, 4, 0); msgctl(q, IPC_STAT, &md); printf("%lu messages %lu bytes of %lu %d %d\n", md.msg_qnum, md.__msg_cbytes, md.msg_qbytes, md.msg_lspid == getpid(), md.msg_lrpid);
    say("by type", msgrcv(q, &m, 100, 2, 0)); printf("%ld %s\n", m.t, m.b); say("up to", msgrcv(q, &m, 100, -3, 0)); printf("%ld %s\n", m.t, m.b); say("except", msgrcv(q, &m, 100, 3, MSG_EXCEPT | IPC_NOWAIT)); say("copy", msgrcv(q, &m, 100, 0, MSG_COPY | IPC_NOWAIT)); say("copy 9", msgrcv(q, &m, 100, 9, MSG_COPY | IPC_NOWAIT)); say("copy, wait", msgrcv(q, &m, 100, 0, MSG_COPY)); say("too big", msgrcv(q, &m, 2, 0, 0)); say("cut", msgrcv(q, &m, 2, 0, MSG_NOERROR)); say("none", msgrcv(q, &m, 2, 0, IPC_NOWAIT)); m.t = 0; say("type 0", msgsnd(q, &m, 1, 0)); m.t = 1; say("too long", msgsnd(q, &m, 9000, 0)); say("pointer", msgsnd(q, (void *)8, 1, 0)); say("bad id", msgsnd(55, &m, 1, 0)); say("empty", msgsnd(q, &m, 0, 0)); say("empty", msgrcv(q, &m, 0, 0, 0));
    int n = 0; while (!msgsnd(q, &m, 8000, IPC_NOWAIT)) n++; printf("full after %d %s\n", n, strerror(errno)); ualarm(20000, 0); say("interrupted", msgsnd(q, &m, 8000, 0)); fflush(stdout); c = fork(); if (!c) { m.t = 9; say("child sends", msgsnd(q, &m, 8000, 0)); _exit(0); } usleep(50000); for (int i = 0; i <= n; i++) msgrcv(q, &m, 8000, 0, 0); waitpid(c, 0, 0); printf("last %ld\n", m.t); ualarm(20000, 0); say("receive interrupted", msgrcv(q, &m, 8000, 0, 0));
    md.msg_qbytes = 4; md.msg_perm.mode = 0622; say("set", msgctl(q, IPC_SET, &md)); m.t = 1; say("larger than queue", msgsnd(q, &m, 5, IPC_NOWAIT)); CHILD(setuid(1000); say("other sends", msgsnd(q, &m, 1, IPC_NOWAIT)); say("other receives", msgrcv(q, &m, 1, 0, IPC_NOWAIT)); md.msg_qbytes = 99999; say("other sets", msgctl(q, IPC_SET, &md)));
    struct msginfo mi; say("info", msgctl(0, IPC_INFO, (void *)&mi)); printf("%d %d %d %d %d %d %d %d\n", mi.msgpool, mi.msgmap, mi.msgmax, mi.msgmnb, mi.msgmni, mi.msgssz, mi.msgtql, mi.msgseg); say("msg_info", msgctl(0, MSG_INFO, (void *)&mi)); printf("%d %d %d\n", mi.msgpool, mi.msgmap, mi.msgtql);
    fflush(stdout); c = fork(); if (!c) { msgrcv(q, &m, 8000, 0, IPC_NOWAIT); say("removed", msgrcv(q, &m, 8000, 0, 0)); _exit(0); } usleep(50000); msgctl(q, IPC_RMID, 0); waitpid(c, 0, 0); say("next", msgget(IPC_PRIVATE, 0600));
    fflush(stdout); system("cd /proc/sys/kernel; cat shmmax shmall shmmni sem msgmax msgmnb msgmni; sed 's/ [0-9]\\{10\\}/ TIME/g; s/^\\(.*0 *[0-7]* *[0-9]* \\) *[0-9]* *[0-9]* /\\1 /' /proc/sysvipc/sem; head -1 /proc/sysvipc/shm /proc/sysvipc/msg; echo 100 > msgmni; cat msgmni; ipcs -q | tail -2");
    return 0;
}
C
gcc -w -O1 -o /tmp/sv /tmp/sv.c && /tmp/sv
