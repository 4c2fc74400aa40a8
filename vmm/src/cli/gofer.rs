//! `ringfence gofer`: the process that serves host directories to a sandbox. `run` starts it, in a jail of its own; it is no
//! command for people.

use std::process::ExitCode;

use ringfence_gofer::process::{self, FIRST_VOLUME};
use ringfence_gofer::volume::Volume;

use super::report;
use crate::exit;

/// Serves what the argument says until the VMM hangs up.
pub fn main() -> ExitCode {
    // For who looks at a list of processes; the name says nothing else.
    let _ = rustix::thread::set_name(c"ringfence-gofer");
    let order = std::env::args().nth(2).and_then(|text| serde_json::from_str::<Vec<Volume<i32>>>(&text).ok());
    // SAFETY: F_GETFD touches no memory.
    let open = |fd: i32| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    let numbered =
        |order: &Vec<Volume<i32>>| order.iter().map(|v| v.root).eq((FIRST_VOLUME..).take(order.len()));
    let Some(order) = order.filter(|o| numbered(o) && (3..FIRST_VOLUME + o.len() as i32).all(open)) else {
        report("`gofer` is started by `ringfence run`, in the jail; it is no command for people");
        return ExitCode::from(exit::SETUP_FAILED);
    };
    // SAFETY: they are open, the numbers differ, and this process has no other user of them.
    let code = match unsafe { process::run(order) } {
        Ok(()) => 0,
        Err(e) => {
            report(&format!("the server of shared directories failed: {e}"));
            exit::MACHINE_FAILED
        }
    };
    // SAFETY: nothing has to be done at the end, and the filter would forbid what libc does.
    unsafe { libc::_exit(code.into()) }
}
