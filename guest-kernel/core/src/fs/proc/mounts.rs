//! `mounts` and `mountinfo`.

use alloc::{sync::Arc, vec::Vec};

use super::{Scope, Text, text::emit};
use crate::{
    errno::Result,
    fs::{Dentry, DeviceId, FileSystem, Mount, MountFlags, MountNamespace, Path, mount::source_within},
};

/// Characters that separate fields.
const SPECIAL: &[u8] = b" \t\n\\#";

const OPTIONS: &[(MountFlags, &str)] = &[
    (MountFlags::NOSUID, ",nosuid"),
    (MountFlags::NODEV, ",nodev"),
    (MountFlags::NOEXEC, ",noexec"),
    (MountFlags::NOATIME, ",noatime"),
    (MountFlags::NODIRATIME, ",nodiratime"),
    (MountFlags::RELATIME, ",relatime"),
    (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
];

/// The mounts the process can reach, with the place of each as text.
fn reachable(s: &Scope<'_>) -> Result<Vec<(Arc<Mount>, Vec<u8>)>> {
    let fs = s.target()?.task()?.fs()?;
    let root = fs.root();
    let mounts = fs.namespace().mounts().into_iter().filter_map(|mount| {
        let at = Path::new(mount.clone(), mount.root().clone()).text(&root);
        at.reachable.then_some((mount, at.bytes))
    });
    Ok(mounts.collect())
}

fn read_only(mount: &Mount) -> bool {
    mount.flags().contains(MountFlags::READ_ONLY)
}

fn options(out: &mut Text, mount: &Mount, read_only: bool) {
    emit!(out, "{}", if read_only { "ro" } else { "rw" });
    let flags = mount.flags();
    OPTIONS.iter().filter(|(f, _)| flags.contains(*f)).for_each(|(_, name)| emit!(out, "{name}"));
}

fn file_system_options(out: &mut Text, fs: &dyn FileSystem) {
    let options = fs.options();
    if !options.is_empty() {
        emit!(out, ",{options}");
    }
}

pub(super) fn mounts(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    for (mount, place) in reachable(s)? {
        let fs = mount.superblock().fs();
        out.escaped(mount.source(), SPECIAL);
        emit!(out, " ");
        out.escaped(&place, SPECIAL);
        emit!(out, " {} ", fs.name());
        options(out, &mount, read_only(&mount) || mount.superblock().read_only());
        file_system_options(out, &**fs);
        emit!(out, " 0 0\n");
    }
    Ok(())
}

/// The path of a mount's root in its file system.
fn root_in_file_system(mount: &Mount) -> Vec<u8> {
    let mut names: Vec<Arc<[u8]>> = Vec::new();
    let mut at: Arc<Dentry> = mount.root().clone();
    while let (Some(parent), name) = at.parent_and_name() {
        names.push(name);
        at = parent;
    }
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().rev().flat_map(|n| [b"/", &**n].concat()).collect()
}

/// Who hears of changes on a mount, and whose changes it hears of.
fn kin(out: &mut Text, mount: &Mount, namespace: &MountNamespace, root: &Path) {
    let kin = mount.kin();
    if kin.group != 0 {
        emit!(out, " shared:{}", kin.group);
    }
    if kin.master != 0 {
        emit!(out, " master:{}", kin.master);
        if let Some(source) = source_within(mount, namespace, root) {
            emit!(out, " propagate_from:{source}");
        }
    }
    if kin.unbindable {
        emit!(out, " unbindable");
    }
}

pub(super) fn mountinfo(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let (namespace, root) = {
        let fs = s.target()?.task()?.fs()?;
        (fs.namespace(), fs.root())
    };
    for (mount, place) in reachable(s)? {
        let fs = mount.superblock().fs();
        let parent = mount.mounted_on().map_or(mount.id(), |on| on.mount().id());
        let dev = DeviceId::decode(mount.superblock().dev());
        emit!(out, "{} {parent} {}:{} ", mount.id(), dev.major, dev.minor);
        out.escaped(&root_in_file_system(&mount), SPECIAL);
        emit!(out, " ");
        out.escaped(&place, SPECIAL);
        emit!(out, " ");
        options(out, &mount, read_only(&mount));
        kin(out, &mount, &namespace, &root);
        emit!(out, " - {} ", fs.name());
        out.escaped(mount.source(), SPECIAL);
        emit!(out, " {}", if mount.superblock().read_only() { "ro" } else { "rw" });
        file_system_options(out, &**fs);
        emit!(out, "\n");
    }
    Ok(())
}
