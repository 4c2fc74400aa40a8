//! The lab: a virtual machine in which KVM works, on any machine.
//!
//! QEMU emulates an AMD processor with SVM in software; in it boots Debian's cloud kernel with `kvm_amd`, and
//! there our VMM runs. [`image`] makes the disk (once a user), [`programs`] a second one with server programs, [`instance`] starts and ends machines (one a
//! checkout), [`client`] runs commands in them, over [`ringfence_lab_agent`]'s wire format.
mod client;
mod cpio;
mod execute;
mod image;
mod instance;
mod post_mortem;
pub mod programs;
mod terminal;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use client::{LabEnded, TimedOut};
pub use client::{Session, Streams};
pub use execute::{Job, Outcome, execute};
pub use image::debian as debian_image;
pub use instance::{Lab, Options};

use crate::{build, host};

/// `cargo xtask lab …`.
#[derive(Subcommand)]
pub enum Command {
    /// Start the lab (or find it running)
    Up(Which),
    /// End the lab
    Down(Which),
    /// An interactive shell in the lab
    Shell(Which),
    /// Run a command in the lab, with this build of `ringfence` on its PATH
    Exec {
        #[command(flatten)]
        which: Which,
        /// Do not build `ringfence` first: use what was built last
        #[arg(long)]
        no_build: bool,
        /// Run it on a pseudo-terminal
        #[arg(long, short)]
        tty: bool,
        /// Program and arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Copy a file into the lab
    Push {
        #[command(flatten)]
        which: Which,
        /// The file here
        from: PathBuf,
        /// Its full path in the lab
        to: PathBuf,
    },
    /// Say whether the lab is up
    Status(Which),
    /// Make the disk with server programs (/srv/programs); labs that start from then on have it
    Programs,
}

/// Which of the checkout's labs.
#[derive(Args, Clone)]
pub struct Which {
    /// Another lab of this checkout, by name
    #[arg(long)]
    name: Option<String>,
    /// The lab with one CPU that counts instructions: its time is its instruction count
    #[arg(long)]
    icount: bool,
    /// The one that `cargo xtask profile` uses
    #[arg(long)]
    profile: bool,
}

impl Which {
    fn lab(&self) -> Lab {
        let options = Options { icount: self.icount || self.profile, profile: self.profile };
        match &self.name {
            Some(name) => Lab::named(name, options),
            None => Lab::new(options),
        }
    }
}

/// Runs `cargo xtask lab …`.
pub fn main(command: Command) -> Result<u8> {
    match command {
        Command::Up(which) => {
            which.lab().up()?;
            eprintln!("the lab is up; cargo xtask lab exec -- CMD ARGS");
        }
        Command::Down(which) => which.lab().down()?,
        Command::Programs => println!("{}", programs::ensure()?.display()),
        Command::Status(which) => {
            let lab = which.lab();
            println!("{}", lab.status()?);
            return Ok(if lab.is_up()? { 0 } else { 1 });
        }
        Command::Shell(which) => {
            let mut session = which.lab().session()?;
            push_programs(&mut session, true)?;
            return terminal::run(session, &["bash".into(), "-l".into()]);
        }
        Command::Exec { which, no_build, tty, command } => {
            return exec_in(&which.lab(), !no_build, tty, &command);
        }
        Command::Push { which, from, to } => which.lab().session()?.push(&from, &to)?,
    }
    Ok(0)
}

/// Runs a command in the checkout's lab with our standard streams; its exit code.
pub fn exec(command: &[OsString]) -> Result<u8> {
    let lab = Lab::new(Options::default());
    exec_in(&lab, true, false, command)
}

fn exec_in(lab: &Lab, build: bool, tty: bool, command: &[OsString]) -> Result<u8> {
    let mut session = lab.session()?;
    push_programs(&mut session, build)?;
    if tty { terminal::run(session, command) } else { session.run(command, Streams::inherit()) }
}

/// Folders of the checkout whose files are put into the lab, and where.
const SCRIPTS: &[(&str, &str)] =
    &[("tests/lab/bin", "/usr/local/bin"), ("tests/linux", "/opt/ringfence/linux")];

/// Puts this checkout's programs and scripts on the lab's PATH.
pub fn push_programs(session: &mut Session, build: bool) -> Result<()> {
    let ringfence = if build {
        build::build_static("ringfence")?
    } else {
        host::target_dir().join(host::STATIC_TARGET).join("release/ringfence")
    };
    if ringfence.exists() {
        session.push(&ringfence, "/usr/local/bin/ringfence".as_ref())?;
    }
    for (from, to) in SCRIPTS {
        let directory = host::checkout().join(from);
        let mut entries: Vec<_> = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?
            .collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries.iter().filter(|entry| entry.path().is_file()) {
            session.push(&entry.path(), &Path::new(to).join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The words of a command.
pub fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn bytes(words: &[OsString]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}
