//! What a lab can still say when a command in it did not end: whether the machine of the lab itself answers (then the
//! sandbox hangs, and the processes are named with what they wait for), or not (then it is the emulator or its Linux, and the
//! monitor says where the CPU is).
use std::io::{Cursor, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};

use super::client::{Session, Streams};
use super::words;

/// How long the lab may take to answer, and to say what we ask.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the lab is asked: its load, its processes, where threads of ours are in its kernel, and what that said.
const QUESTIONS: &str = "
    cat /proc/uptime /proc/loadavg
    ps --ppid 2 -p 2 -N -o pid,ppid,stat,wchan:20,time,args
    for task in $(pgrep ringfence | sed 's,.*,/proc/&/task/*,'); do
        echo \"$task $(cat $task/comm): $(tail -n1 $task/syscall)\"; cat $task/stack
    done
    dmesg | tail -n 20";

/// Asks the lab behind `session`.
pub fn ask(session: Session) -> Result<String> {
    let mut said = Vec::new();
    let streams = Streams {
        stdin: Box::new(Cursor::new(Vec::new())),
        output: Box::new(|_, bytes| {
            said.extend_from_slice(bytes);
            Ok(())
        }),
        timeout: Some(PATIENCE),
    };
    let ending = session.run(&words(&["sh", "-c", QUESTIONS]), streams);
    let said = String::from_utf8_lossy(&said).into_owned();
    ending.map(|_| said.clone()).with_context(|| format!("the lab stops while it answers: {said}"))
}

/// Asks QEMU's monitor for the registers, a few times: a CPU that goes in a circle is seen to.
pub fn registers(mut monitor: UnixStream) -> Result<String> {
    for _ in 0..3 {
        monitor.write_all(b"info registers\n")?;
        std::thread::sleep(Duration::from_secs(1));
    }
    monitor.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    // The monitor says nothing unasked, so this ends.
    while let Ok(count @ 1..) = monitor.read(&mut buffer) {
        said.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}
