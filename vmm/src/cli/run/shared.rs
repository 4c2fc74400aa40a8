//! Host directories for the sandbox: `--mount` and `--rootfs-mode shared`.
//!
//! What is shared is opened here, as the user who asked, so that the checks of the host's permissions are theirs; the gofer gets the
//! descriptors and sees no path.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use ringfence_gofer::process::{COMMAND, FIRST_VOLUME};
use ringfence_gofer::volume::{IdMap, IdRange, Volume};
use ringfence_jailer::{Companion, LEAST_OPEN_FILES, Share};
use ringfence_protocol::{Base, Cache, VolumeMount};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit};

use crate::api::config::{Config, Image, Mount, check_destination};
use crate::cli::Failure;

/// `type=bind,src=DIR,dst=DIR[,ro][,suid][,cache=none|auto|always][,uidmap=IN:OUT:N][,gidmap=IN:OUT:N]`, the syntax of other container
/// tools, for clap.
pub fn mount(text: &str) -> Result<Mount, String> {
    let (mut source, mut destination, mut kind) = (None, None, "bind");
    let (mut uid_map, mut gid_map) = (IdMap::default(), IdMap::default());
    let (mut read_only, mut set_id, mut cache) = (false, false, Cache::default());
    for option in text.split(',') {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match (key, value) {
            ("type", value) => kind = value,
            ("src" | "source", value) => source = Some(PathBuf::from(value)),
            ("dst" | "destination" | "target", value) => destination = Some(value.to_owned()),
            ("ro" | "readonly", "" | "true" | "1") => read_only = true,
            ("ro" | "readonly", "false" | "0") | ("rw", "") => read_only = false,
            ("suid", "") => set_id = true,
            ("nosuid", "") => set_id = false,
            ("cache", "none") => cache = Cache::None,
            ("cache", "auto") => cache = Cache::Auto,
            ("cache", "always") => cache = Cache::Always,
            ("uidmap", range) => uid_map.0.push(id_range(range)?),
            ("gidmap", range) => gid_map.0.push(id_range(range)?),
            _ => {
                return Err(format!(
                    "`{option}` is no option of a mount: type=bind, src=, dst=, ro, suid, cache=, uidmap=, gidmap="
                ));
            }
        }
    }
    if kind != "bind" {
        return Err(format!("`type={kind}` is not known; there is type=bind"));
    }
    let source = source.filter(|path| !path.as_os_str().is_empty()).ok_or("a mount needs src=DIR")?;
    let destination = destination.ok_or("a mount needs dst=DIR")?;
    check_destination(&destination)?;
    Ok(Mount { source, destination, read_only, set_id, cache, uid_map, gid_map })
}

/// `IN:OUT:N`, for clap.
pub fn id_range(text: &str) -> Result<IdRange, String> {
    let wrong = || format!("`{text}` is no range of ids: FIRST-INSIDE:FIRST-OUTSIDE:COUNT");
    let mut numbers = text.split(':').map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).ok_or_else(wrong);
    let range = IdRange { inside: next()?, outside: next()?, count: next()? };
    if numbers.next().is_some() || range.count == 0 {
        return Err(wrong());
    }
    Ok(range)
}

/// Everything about shared directories that an order needs.
pub struct Shared {
    /// The program's root, if it is shared.
    pub root: Option<Base>,
    /// The program's mounts.
    pub mounts: Vec<VolumeMount>,
    /// The VMM's end of the socket, and the process at the other, if anything is shared.
    pub gofer: Option<(OwnedFd, Companion)>,
}

/// Opens what a description asks for.
pub fn open(config: &Config) -> Result<Shared, Failure> {
    let root = match &config.image {
        Some(Image::Shared(dir)) => Some(dir),
        _ => None,
    };
    let mut sources: Vec<Mount> = root
        .map(|dir| Mount {
            source: dir.to_owned(),
            destination: "/".into(),
            read_only: false,
            // A root has programs like su, and is made with them.
            set_id: true,
            cache: Cache::default(),
            uid_map: IdMap::default(),
            gid_map: IdMap::default(),
        })
        .into_iter()
        .collect();
    sources.extend_from_slice(&config.mounts);
    let first = root.map_or(0, |_| 1);
    let mounts = sources.iter().enumerate().skip(first).map(|(number, mount)| VolumeMount {
        volume: number as u32,
        destination: mount.destination.clone(),
        read_only: mount.read_only,
        cache: mount.cache,
    });
    let mounts = mounts.collect();
    let root = root.map(|_| Base::Volume(0));
    let gofer = if sources.is_empty() { None } else { Some(companion(&sources)?) };
    Ok(Shared { root, mounts, gofer })
}

fn companion(sources: &[Mount]) -> Result<(OwnedFd, Companion), Failure> {
    if let Some(most) = getrlimit(Resource::Nofile).maximum.filter(|most| *most < LEAST_OPEN_FILES) {
        return Err(Failure::setup(format!(
            "to share a directory takes an open file for each that the sandbox uses at a time: the hard limit, {most}, has to be \
             {LEAST_OPEN_FILES} at least (ulimit -Hn)"
        )));
    }
    let (ours, theirs) = UnixStream::pair().map_err(|e| Failure::setup(format!("no socket pair: {e}")))?;
    let (mut order, mut shares) = (Vec::new(), Vec::new());
    for (number, mount) in sources.iter().enumerate() {
        let path = std::path::absolute(&mount.source).map_err(Failure::setup)?;
        let fd = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Failure::setup(format!("cannot share {}: {e}", path.display())))?;
        let kind = rustix::fs::fstat(&fd).map(|stat| stat.st_mode & libc::S_IFMT).map_err(Failure::setup)?;
        if kind != libc::S_IFDIR && kind != libc::S_IFREG {
            let what = "is neither a directory nor a regular file: only those can be shared";
            return Err(Failure::setup(format!("{} {what}", path.display())));
        }
        let or = |map: &IdMap, id: u32| match (map.0.is_empty(), ringfence_jailer::config::is_root()) {
            (false, _) => map.clone(),
            (true, true) => IdMap::identity(),
            (true, false) => IdMap::root_is(id),
        };
        order.push(Volume {
            root: FIRST_VOLUME + number as i32,
            read_only: mount.read_only,
            set_id: mount.set_id,
            users: or(&mount.uid_map, rustix::process::geteuid().as_raw()),
            groups: or(&mount.gid_map, rustix::process::getegid().as_raw()),
            cache: mount.cache,
        });
        shares.push(Share { path, fd, read_only: mount.read_only });
    }
    let order = serde_json::to_string(&order).map_err(Failure::setup)?;
    let words = ["ringfence", COMMAND, &order].into_iter().map(std::ffi::CString::new);
    let args = words.collect::<Result<_, _>>().map_err(Failure::setup)?;
    Ok((ours.into(), Companion { args, descriptors: vec![theirs.into()], shares }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_parsed() {
        let parsed = mount("type=bind,src=/a b,dst=/c,ro,cache=none,uidmap=0:1000:1,uidmap=1:9:2").unwrap();
        assert_eq!((parsed.source.to_str(), parsed.destination.as_str()), (Some("/a b"), "/c"));
        assert!(parsed.read_only && !parsed.set_id && parsed.cache == Cache::None);
        assert!(mount("src=.,dst=/c,suid").unwrap().set_id);
        assert_eq!(parsed.uid_map.0[1], IdRange { inside: 1, outside: 9, count: 2 });
        assert!(!mount("src=.,dst=/c,rw").unwrap().read_only);
        for bad in [
            "src=/a",
            "dst=/c",
            "src=,dst=/c",
            "src=/a,dst=c",
            "src=/a,dst=/c/../d",
            "type=tmpfs,src=/a,dst=/c",
            "src=/a,dst=/c,cache=maybe",
            "src=/a,dst=/c,uidmap=0:0",
            "src=/a,dst=/c,gidmap=0:0:0",
            "src=/a,dst=/c,exec",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}
