//! Walking a path (`path_resolution(7)`).
//!
//! A walk goes component by component from a starting place. The text still to walk is a stack: following a
//! symbolic link pushes its text. Nothing is allocated unless a link is followed. What the last component is
//! for decides how the walk ends:
//!
//! * [`Walk::resolve`]: the place, which must exist;
//! * [`Walk::parent`]: the directory and the last name, not looked up (create, remove, rename);
//! * [`Walk::create`]: either of the two, for `open(O_CREAT)`, which follows a final link even if that leads
//!   nowhere.
//!
//! Limits: 40 links (`ELOOP`), 255 bytes a component (`ENAMETOOLONG`); the length of the whole path is limited
//! where it is copied from the user. `..` does not leave the caller's root, nor the directory a bind mount shows; a
//! walk with [`WalkFlags::BENEATH`] or [`WalkFlags::IN_ROOT`] has its start for a root, and notices when directories move
//! meanwhile ([`super::moves`]).

use alloc::{borrow::Cow, sync::Arc};

use bitflags::bitflags;
use smallvec::SmallVec;

use super::{
    Dentry, MountFlags, NAME_MAX, Path,
    access::{Access, Subject},
    inode::LinkTarget,
    moves::Watch,
    types::FileType,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
};

/// Symbolic links followed in one walk (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

bitflags! {
    /// How to walk. The upper ones are `RESOLVE_*` of `openat2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WalkFlags: u32 {
        /// Follow a symbolic link that is the last component.
        const FOLLOW = 1;
        /// The result must be a directory.
        const DIRECTORY = 2;
        /// An empty path is the start itself.
        const EMPTY = 4;
        /// Do not cross mounts.
        const NO_XDEV = 0x100;
        /// Do not follow magic links.
        const NO_MAGICLINKS = 0x200;
        /// Do not follow any link.
        const NO_SYMLINKS = 0x400;
        /// Stay below the start; leaving is an error.
        const BENEATH = 0x800;
        /// The start is the root of the walk.
        const IN_ROOT = 0x1000;
        /// Only what the dentry cache knows; `EAGAIN` else.
        const CACHED = 0x2000;
        /// The start is not to be left.
        const SCOPED = 0x1800;
    }
}

/// A file name on its own: what [`Walk::create`] found missing.
pub type Name = SmallVec<[u8; 64]>;

/// A directory and the last component of a path.
pub struct Parent<'p> {
    /// The directory; checked to be one, searchable.
    pub dir: Path,
    /// The last component.
    pub last: Last<'p>,
    /// Slashes follow the last component.
    pub trailing_slash: bool,
}

/// The last component of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last<'p> {
    /// A name.
    Name(&'p [u8]),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// There is none: `/`.
    Root,
}

/// What `open(O_CREAT)` finds.
pub enum Target {
    /// It exists.
    Existing(Path),
    /// It does not.
    Missing {
        /// The directory to make it in.
        dir: Path,
        /// Its name.
        name: Name,
        /// Slashes follow: only a directory could be made.
        trailing_slash: bool,
    },
}

/// Who walks, and from what root.
pub struct Walk<'a> {
    /// For the permission to search.
    pub subject: Subject<'a>,
    /// What `/` means.
    pub root: Path,
    /// For links whose target depends on the reader; `None` when the kernel itself walks.
    pub task: Option<&'a TaskRef>,
}

/// The text left to walk: the paths of the links followed, the original at the bottom.
struct Rest<'p> {
    stack: SmallVec<[(Cow<'p, [u8]>, usize); 2]>,
    /// The root has been looked at: at the beginning, or for `..`.
    saw_root: bool,
}

impl<'p> Rest<'p> {
    /// Drops finished texts; whether any is left.
    fn settle(&mut self) -> bool {
        while let Some((text, at)) = self.stack.last_mut() {
            while text.get(*at) == Some(&b'/') {
                *at += 1;
            }
            if *at < text.len() {
                return true;
            }
            self.stack.pop();
        }
        false
    }

    /// The next component as a range of the topmost text, and whether a slash follows it.
    fn next(&mut self) -> Option<(core::ops::Range<usize>, bool)> {
        let (text, at) = self.stack.last_mut()?;
        let start = *at;
        let tail = text.get(start..)?;
        let len = tail.iter().position(|b| *b == b'/').unwrap_or(tail.len());
        *at = start + len;
        Some((start..start + len, len < tail.len()))
    }

    fn text(&self, range: core::ops::Range<usize>) -> &[u8] {
        self.stack.last().and_then(|(text, _)| text.get(range)).unwrap_or_default()
    }
}

/// What the last component is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Exists,
    MayCreate,
}

impl<'a> Walk<'a> {
    /// The place `path` names, which must exist.
    pub fn resolve(&self, start: &Path, path: &[u8], flags: WalkFlags) -> Result<Path> {
        match self.walk(start, path, flags, End::Exists)? {
            Target::Existing(place) => Ok(place),
            Target::Missing { .. } => Err(Errno::ENOENT),
        }
    }

    /// The place `path` names, or where it could be made.
    pub fn create(&self, start: &Path, path: &[u8], flags: WalkFlags) -> Result<Target> {
        self.walk(start, path, flags, End::MayCreate)
    }

    /// The directory of the last component, which is not looked up.
    pub fn parent<'p>(&self, start: &Path, path: &'p [u8]) -> Result<Parent<'p>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let end = path.iter().rposition(|b| *b != b'/').map_or(0, |i| i + 1);
        let trimmed = path.get(..end).unwrap_or_default();
        let begin = trimmed.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        let (before, last) =
            (trimmed.get(..begin).unwrap_or_default(), trimmed.get(begin..).unwrap_or_default());
        if last.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let dir = match (before, last) {
            (b"", b"") => self.root.clone(),
            (b"", _) => start.clone(),
            _ => self.resolve(start, before, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?,
        };
        self.check_search(&dir)?;
        let last = match last {
            b"" => Last::Root,
            b"." => Last::Dot,
            b".." => Last::DotDot,
            name => Last::Name(name),
        };
        Ok(Parent { dir, last, trailing_slash: end < path.len() })
    }

    fn check_search(&self, dir: &Path) -> Result<()> {
        let inode = dir.inode()?;
        if inode.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        inode.permission(&self.subject, Access::EXEC)
    }

    /// The root, for a path or a link that begins with `/`; a link was found at `from`.
    fn absolute(&self, start: &Path, from: Option<&Path>, flags: WalkFlags) -> Result<Path> {
        if flags.contains(WalkFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let root = if flags.contains(WalkFlags::IN_ROOT) { start } else { &self.root };
        let crosses = from.is_some_and(|from| !Arc::ptr_eq(root.mount(), from.mount()));
        if crosses && flags.contains(WalkFlags::NO_XDEV) {
            return Err(Errno::EXDEV);
        }
        Ok(root.clone())
    }

    fn walk(&self, start: &Path, path: &[u8], flags: WalkFlags, end: End) -> Result<Target> {
        if path.is_empty() {
            let ok = flags.contains(WalkFlags::EMPTY);
            return if ok { Ok(Target::Existing(start.clone())) } else { Err(Errno::ENOENT) };
        }
        let absolute = path.first() == Some(&b'/');
        let mut at = if absolute { self.absolute(start, None, flags)? } else { start.clone() };
        let watch = flags.intersects(WalkFlags::SCOPED).then(Watch::new);
        let mut rest =
            Rest { stack: SmallVec::new(), saw_root: absolute || flags.intersects(WalkFlags::SCOPED) };
        rest.stack.push((Cow::Borrowed(path), 0));
        let mut links = 0;
        let mut must_be_directory = flags.contains(WalkFlags::DIRECTORY);
        if !rest.settle() {
            self.check_search(&at)?;
        }
        while let Some((range, slash)) = rest.next() {
            self.check_search(&at)?;
            if range.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            let child = match rest.text(range) {
                b"." => at.clone(),
                b".." => {
                    rest.saw_root = true;
                    let parent = self.up(&at, start, flags)?;
                    if watch.as_ref().is_some_and(|watch| !watch.is_quiet()) {
                        return Err(Errno::EAGAIN);
                    }
                    parent
                }
                name => {
                    let dentry = match flags.contains(WalkFlags::CACHED) {
                        false => at.dentry().lookup(name)?,
                        true => at.dentry().cached(name).ok_or(Errno::EAGAIN)?,
                    };
                    if dentry.inode().is_none() {
                        let name = Name::from_slice(name);
                        Self::check_scope(&at, start, watch.as_ref())?;
                        if rest.settle() || end == End::Exists {
                            return Err(Errno::ENOENT);
                        }
                        return Ok(Target::Missing {
                            dir: at,
                            name,
                            trailing_slash: slash || must_be_directory,
                        });
                    }
                    at.with(dentry).below_mounts()
                }
            };
            let crossed = !Arc::ptr_eq(child.mount(), at.mount());
            if crossed && flags.contains(WalkFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            let more = rest.settle();
            if !more && slash {
                must_be_directory = true;
            }
            let follow = more || slash || flags.contains(WalkFlags::FOLLOW);
            if !follow || child.inode()?.kind() != FileType::Symlink {
                at = child;
                continue;
            }
            links += 1;
            if links > MAX_LINKS || flags.contains(WalkFlags::NO_SYMLINKS) {
                return Err(Errno::ELOOP);
            }
            self.follow(&child, &mut at, start, flags, &mut rest)?;
            rest.settle();
        }
        if must_be_directory && at.inode()?.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        Self::check_scope(&at, start, watch.as_ref())?;
        Ok(Target::Existing(at))
    }

    /// `EXDEV` if the place a walk within `start` came to was moved out of it.
    fn check_scope(at: &Path, start: &Path, watch: Option<&Watch>) -> Result<()> {
        let moved = watch.is_some_and(|watch| !watch.is_quiet());
        if moved && !at.is_reached_from(start) { Err(Errno::EXDEV) } else { Ok(()) }
    }

    /// Goes where the link `link` in directory `at` leads, or pushes its text.
    fn follow(
        &self,
        link: &Path,
        at: &mut Path,
        start: &Path,
        flags: WalkFlags,
        rest: &mut Rest<'_>,
    ) -> Result<()> {
        if link.mount().flags().contains(MountFlags::NOSYMFOLLOW) {
            return Err(Errno::ELOOP);
        }
        let place = match link.inode()?.follow(self.task)? {
            LinkTarget::Path(text) => {
                match text.first() {
                    None => return Err(Errno::ENOENT),
                    // Linux compares the mounts of `NO_XDEV` before it has found out what the root is: a link that is the first to
                    // ask leads to another mount, whichever it is.
                    Some(b'/') if flags.contains(WalkFlags::NO_XDEV) && !rest.saw_root => {
                        return Err(Errno::EXDEV);
                    }
                    Some(b'/') => *at = self.absolute(start, Some(at), flags)?,
                    Some(_) => {}
                }
                rest.stack.push((Cow::Owned(text), 0));
                return Ok(());
            }
            LinkTarget::Place(place) => place,
            LinkTarget::File(file) => file.path().clone(),
        };
        if flags.intersects(WalkFlags::NO_MAGICLINKS) {
            return Err(Errno::ELOOP);
        }
        let crosses = flags.contains(WalkFlags::NO_XDEV) && !Arc::ptr_eq(place.mount(), at.mount());
        if crosses || flags.intersects(WalkFlags::SCOPED) {
            return Err(Errno::EXDEV);
        }
        *at = place;
        Ok(())
    }

    fn up(&self, at: &Path, start: &Path, flags: WalkFlags) -> Result<Path> {
        let root = if flags.intersects(WalkFlags::SCOPED) { start } else { &self.root };
        match at.parent(root)? {
            Some(parent) => Ok(parent),
            None if flags.contains(WalkFlags::BENEATH) => Err(Errno::EXDEV),
            None => Ok(at.clone().below_mounts()),
        }
    }
}

/// The dentry `name` in `dir`, which is locked; it must exist.
pub(super) fn existing(
    dir: &Path,
    name: &[u8],
    guard: &crate::sync::MutexGuard<'_, ()>,
) -> Result<Arc<Dentry>> {
    let dentry = dir.dentry().lookup_locked(name, guard)?;
    dentry.positive()?;
    Ok(dentry)
}
