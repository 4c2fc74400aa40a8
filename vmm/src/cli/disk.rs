//! `--disk PATH[,ro][,id=NAME][,bandwidth=SIZE][,ops=N][,mount=DIR]`.

use std::os::fd::OwnedFd;

use ringfence_devices::block;

use crate::api::config::{Disk as Wanted, MAX_DISKS, check_disk_id, check_mount};
use crate::cli::{Failure, units};
use crate::order::Disk;

/// Parses the option's value.
pub fn parse(text: &str) -> Result<Wanted, String> {
    let (path, options) = text.split_once(',').map_or((text, None), |(path, rest)| (path, Some(rest)));
    if path.is_empty() {
        return Err(
            "name a file or a block device: --disk PATH[,ro][,id=NAME][,bandwidth=SIZE][,ops=N][,mount=DIR]"
                .into(),
        );
    }
    let mut disk = Wanted {
        path: path.into(),
        read_only: false,
        id: String::new(),
        bandwidth: None,
        ops: None,
        mount: None,
    };
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option.split_once('=') {
            None if option == "ro" => disk.read_only = true,
            Some(("id", id)) => disk.id = identity(id)?,
            Some(("bandwidth", rate)) => disk.bandwidth = Some(positive("bandwidth", units::size(rate)?)?),
            Some(("ops", rate)) => {
                let wrong = |_| format!("`{rate}` is not a number of requests a second");
                disk.ops = Some(positive("ops", rate.parse().map_err(wrong)?)?);
            }
            Some(("mount", dir)) => {
                check_mount(dir)?;
                disk.mount = Some(dir.to_owned());
            }
            _ => {
                return Err(format!(
                    "`{option}` is no option of a disk; there are ro, id=NAME, bandwidth=SIZE (bytes a second), \
                     ops=N (requests a second) and mount=DIR"
                ));
            }
        }
    }
    Ok(disk)
}

fn identity(id: &str) -> Result<String, String> {
    if id.is_empty() {
        Err(check_disk_id(" ").err().unwrap_or_default())
    } else {
        check_disk_id(id).map(|()| id.to_owned())
    }
}

fn positive(name: &str, rate: u64) -> Result<u64, String> {
    if rate == 0 { Err(format!("a disk with {name}=0 would never answer")) } else { Ok(rate) }
}

/// Opens and locks the files.
pub fn open(asked: &[Wanted]) -> Result<Vec<Disk<OwnedFd>>, Failure> {
    if asked.len() > MAX_DISKS {
        return Err(Failure::setup(format!("a sandbox has at most {MAX_DISKS} disks")));
    }
    let open = |asked: &Wanted| {
        // A file system is only read.
        let read_only = asked.read_only || asked.mount.is_some();
        let file = block::Disk::open_file(&asked.path, read_only).map_err(Failure::setup)?;
        Ok(Disk {
            file: file.into(),
            name: asked.path.to_string_lossy().into_owned(),
            read_only,
            id: asked.id.clone(),
            bandwidth: asked.bandwidth,
            ops: asked.ops,
            mount: asked.mount.clone(),
        })
    };
    asked.iter().map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed() {
        let plain = parse("/a b.img").unwrap();
        assert_eq!((plain.path.to_str(), plain.read_only, plain.ops), (Some("/a b.img"), false, None));
        let full = parse("x,ro,id=my-disk_1,bandwidth=10M,ops=100").unwrap();
        assert!(full.read_only && full.id == "my-disk_1");
        let mounted = parse("x,mount=/data/").unwrap();
        assert_eq!(mounted.mount.as_deref(), Some("/data/"));
        assert_eq!((full.bandwidth, full.ops), (Some(10 << 20), Some(100)));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("", "PATH"),
            (",ro", "PATH"),
            ("x,rw", "`rw`"),
            ("x,", "``"),
            ("x,ro=1", "`ro=1`"),
            ("x,id=", "1 to 20"),
            ("x,id=a b", "1 to 20"),
            ("x,id=aaaaaaaaaaaaaaaaaaaaa", "1 to 20"),
            ("x,bandwidth=fast", "`fast`"),
            ("x,bandwidth=0", "never"),
            ("x,ops=0", "never"),
            ("x,ops=-1", "`-1`"),
            ("x,mount=data", "absolute"),
            ("x,mount=/", "absolute"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
