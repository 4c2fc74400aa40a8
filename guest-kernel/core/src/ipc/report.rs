//! `/proc/sysvipc/{shm,sem,msg}`.

use core::fmt::{Result, Write};

use super::{objects, shm};
use crate::TaskRef;

/// `/proc/sysvipc/shm`.
pub fn show_shm(task: &TaskRef, out: &mut dyn Write) -> Result {
    writeln!(
        out,
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
         atime      dtime      ctime                   rss                  swap"
    )?;
    let space = objects(task);
    shm::sweep(&space);
    for (id, segment) in space.shm.all() {
        let s = segment.state();
        let p = s.permissions.raw(task, id);
        writeln!(
            out,
            "{:10} {id:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}",
            p.key,
            p.mode,
            segment.size,
            s.cpid,
            s.lpid,
            segment.attached(),
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.atime,
            s.dtime,
            s.ctime,
            segment.resident() * 4096,
            0
        )?;
    }
    Ok(())
}

/// `/proc/sysvipc/sem`.
pub fn show_sem(task: &TaskRef, out: &mut dyn Write) -> Result {
    writeln!(out, "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime")?;
    for (id, set) in objects(task).sem.all() {
        let (p, count, otime, ctime) =
            set.with(|s| (s.permissions.raw(task, id), s.count(), s.otime, s.ctime));
        writeln!(
            out,
            "{:10} {id:10}  {:4o} {count:10} {:5} {:5} {:5} {:5} {otime:10} {ctime:10}",
            p.key, p.mode, p.uid, p.gid, p.cuid, p.cgid
        )?;
    }
    Ok(())
}

/// `/proc/sysvipc/msg`.
pub fn show_msg(task: &TaskRef, out: &mut dyn Write) -> Result {
    writeln!(
        out,
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      \
         rtime      ctime"
    )?;
    for (id, queue) in objects(task).msg.all() {
        queue.with(|s| {
            let p = s.permissions.raw(task, id);
            writeln!(
                out,
                "{:10} {id:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
                p.key,
                p.mode,
                s.bytes,
                s.count(),
                s.lspid,
                s.lrpid,
                p.uid,
                p.gid,
                p.cuid,
                p.cgid,
                s.stime,
                s.rtime,
                s.ctime
            )
        })?;
    }
    Ok(())
}
