//! `docs/procfs.md` lists every file there is, and no other.
use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
};

use super::{Entry, Node, machine, process, sysfs};

/// The paths of `entries` and below, directories aside.
fn collect(prefix: &str, entries: &[Entry], paths: &mut BTreeSet<String>) {
    for entry in entries {
        let path = format!("{prefix}/{}", entry.name);
        match &entry.node {
            Node::Dir(below) => collect(&path, below, paths),
            Node::Threads => {
                // What a process has, too, is described with the process.
                let more =
                    process::THREAD_ENTRIES.iter().filter(|e| !entries.iter().any(|p| p.name == e.name));
                paths.extend(more.map(|e| format!("{path}/TID/{}", e.name)));
                paths.insert(path + "/TID/");
            }
            Node::Disks(None) => collect(&(path + "/DISK"), sysfs::DISK, paths),
            Node::Disks(Some(_)) | Node::DiskNumbers(_) => drop(paths.insert(path + "/DISK")),
            Node::Descriptors | Node::DescriptorInfos => drop(paths.insert(path + "/N")),
            _ => drop(paths.insert(path)),
        }
    }
}

#[test]
fn every_file_is_described() {
    let mut there = BTreeSet::new();
    collect("/proc", machine::ENTRIES, &mut there);
    collect("/proc/PID", process::ENTRIES, &mut there);
    collect("/sys", sysfs::entries(), &mut there);
    let page = include_str!("../../../../../docs/procfs.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let described: BTreeSet<String> = rows.map(|(path, _)| path.to_string()).collect();
    let missing: alloc::vec::Vec<_> = there.difference(&described).collect();
    let gone: alloc::vec::Vec<_> = described.difference(&there).collect();
    assert!(missing.is_empty() && gone.is_empty(), "docs/procfs.md lacks {missing:#?} and has {gone:#?}");
}
