//! ioctl: the commands every file has; the others go to the file.

use crate::{
    errno::{Errno, Result},
    fs::{FileType, OpenFlags},
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
};

const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const FIGETBSZ: u32 = 2;

fn ioctl(ctx: &mut Ctx<'_>, fd: Fd, command: u32, arg: u64) -> Result {
    let files = ctx.task.files()?;
    let file = files.get(fd.0)?;
    let switch = |flag: OpenFlags| -> Result {
        let on = UserPtr::<i32>::new(arg).read()? != 0;
        let mut flags = file.flags();
        flags.set(flag, on);
        file.set_status_flags(flags);
        Ok(0)
    };
    match command {
        FIOCLEX => files.set_close_on_exec(fd.0, true).map(|()| 0),
        FIONCLEX => files.set_close_on_exec(fd.0, false).map(|()| 0),
        FIONBIO => switch(OpenFlags::NONBLOCK),
        FIOASYNC => {
            let on = UserPtr::<i32>::new(arg).read()? != 0;
            let same = on == file.flags().contains(OpenFlags::ASYNC);
            if same || file.set_async(fd.0, on) { Ok(0) } else { Err(Errno::ENOTTY) }
        }
        FIONREAD if file.kind() == FileType::Regular && file.seekable() => {
            let left = file.inode().size().saturating_sub(file.position());
            UserPtr::<i32>::new(arg).write(&i32::try_from(left).unwrap_or(i32::MAX))?;
            Ok(0)
        }
        FIGETBSZ if matches!(file.kind(), FileType::Regular | FileType::Directory) => {
            UserPtr::<i32>::new(arg).write(&(file.metadata().block_size as i32))?;
            Ok(0)
        }
        _ => file.ioctl(ctx.task, command, arg),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    16 ioctl(fd: Fd, command: u32, arg: u64) Full "each file has its own commands; others are ENOTTY";
};
