//! Where an entry of an archive goes in the tree: the rules of extraction, without a file system.
//!
//! | archive says | what happens |
//! |---|---|
//! | `/a/b`, `./a//b` | as `a/b`: everything is inside the image |
//! | `a/../b`, `..` | an error: no archive of a root tree has that |
//! | a parent that is missing | made, mode 0755, owner 0:0 |
//! | a parent that is a symbolic link | followed inside the image, as in a chroot; at most 40 links |
//! | a parent that is something else | an error |
//! | a name that exists | the last one wins; a directory keeps its entries under a second directory entry, and is not replaced by something else unless it is empty |
//! | a hard link | to what is there at this moment; an error if nothing is there, or a directory |

use std::collections::BTreeMap;

use crate::tree::{Id, Inode, Kind, Meta, ROOT, Tree, to_path};
use crate::{Error, Result};

/// As Linux.
const LINKS_MAX: usize = 40;
/// The longest path: far more than Linux takes in one call.
const PATH_MAX: usize = 64 << 10;

/// Puts entries into a tree.
pub struct Placer {
    tree: Tree,
}

impl Placer {
    /// An empty tree.
    pub fn new() -> Self {
        Self { tree: Tree::new() }
    }

    /// The tree.
    pub fn into_tree(self) -> Tree {
        self.tree
    }

    /// Puts an entry at a path.
    pub fn put(&mut self, path: &[u8], inode: Inode) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        let Some(name) = name else {
            // The root itself: only what it is like.
            return match inode.kind {
                Kind::Directory(_) => {
                    self.tree.get_mut(ROOT).meta = inode.meta;
                    Ok(())
                }
                _ => Err(bad(path, "the root of an archive has to be a directory")),
            };
        };
        if let Some(old) = self.tree.child(dir, name)
            && let Kind::Directory(entries) = &self.tree.get(old).kind
        {
            if matches!(inode.kind, Kind::Directory(_)) {
                self.tree.get_mut(old).meta = inode.meta;
                return Ok(());
            }
            if !entries.is_empty() {
                return Err(bad(path, "it would replace a directory that is not empty"));
            }
        }
        let id = self.tree.add(inode)?;
        self.tree.link(dir, name, id, &to_path(path))
    }

    /// Gives what is at `target` another name.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let missing = || {
            let target = to_path(target);
            bad(
                path,
                &format!("it is a hard link to {}, which is not before it in the archive", target.display()),
            )
        };
        let (dir, name) = self.parent(target)?;
        let id = name.and_then(|name| self.tree.child(dir, name)).ok_or_else(missing)?;
        if matches!(self.tree.get(id).kind, Kind::Directory(_)) {
            return Err(bad(path, "it is a hard link to a directory"));
        }
        let (dir, name) = self.parent(path)?;
        let name = name.ok_or_else(|| bad(path, "the root of an archive has to be a directory"))?;
        if let Some(old) = self.tree.child(dir, name)
            && let Kind::Directory(entries) = &self.tree.get(old).kind
            && !entries.is_empty()
        {
            return Err(bad(path, "it would replace a directory that is not empty"));
        }
        self.tree.link(dir, name, id, &to_path(path))
    }

    /// The directory of a path, made if need be, and the last name: none for the root.
    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<(Id, Option<&'a [u8]>)> {
        if path.len() > PATH_MAX {
            return Err(Error::Tar(format!("a path of {} bytes is too long", path.len())));
        }
        let mut names: Vec<&[u8]> = Vec::new();
        for name in path.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(bad(path, "it leads out of its directory by '..'")),
                name if name.contains(&0) => return Err(bad(path, "it has a NUL in its name")),
                name => names.push(name),
            }
        }
        let last = names.pop();
        // Directories from the root to where we are.
        let mut way = vec![ROOT];
        let mut links = 0;
        for name in names {
            self.enter(&mut way, name, &mut links, path)?;
        }
        Ok((here(&way), last))
    }

    /// Goes to the directory `name`, making it if it is missing.
    fn enter(&mut self, way: &mut Vec<Id>, name: &[u8], links: &mut usize, path: &[u8]) -> Result<()> {
        if let Some(id) = self.tree.child(here(way), name) {
            return self.follow(way, id, links, path);
        }
        let meta = Meta { mode: 0o755, ..Meta::default() };
        let id = self.tree.add(Inode { meta, kind: Kind::Directory(BTreeMap::new()) })?;
        self.tree.link(here(way), name, id, &to_path(path))?;
        way.push(id);
        Ok(())
    }

    /// Goes to the directory `id`, or to where it leads if it is a symbolic link, with the root of the image as `/`.
    fn follow(&self, way: &mut Vec<Id>, id: Id, links: &mut usize, path: &[u8]) -> Result<()> {
        // Names still to go, the next one last.
        let mut todo: Vec<&[u8]> = Vec::new();
        let mut next = id;
        loop {
            match &self.tree.get(next).kind {
                Kind::Directory(_) => way.push(next),
                Kind::Symlink(target) => {
                    *links += 1;
                    if *links > LINKS_MAX {
                        return Err(bad(path, "it goes through more than 40 symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    todo.extend(target.split(|&byte| byte == b'/').rev());
                }
                _ => return Err(bad(path, "a part of its path is not a directory")),
            }
            next = loop {
                match todo.pop() {
                    None => return Ok(()),
                    Some(b"" | b".") => {}
                    Some(b"..") => way.truncate(way.len().max(2) - 1),
                    Some(name) => match self.tree.child(here(way), name) {
                        Some(id) => break id,
                        None => return Err(bad(path, "it goes through a symbolic link to nothing")),
                    },
                }
            };
        }
    }
}

/// Where a way ends; it is never empty.
fn here(way: &[Id]) -> Id {
    way.last().copied().unwrap_or(ROOT)
}

fn bad(path: &[u8], why: &str) -> Error {
    Error::Tar(format!("{}: {why}", to_path(path).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> Inode {
        Inode { meta: Meta::default(), kind: Kind::Directory(BTreeMap::new()) }
    }

    fn file(size: u64) -> Inode {
        Inode { meta: Meta::default(), kind: Kind::Regular { size, start: 1 } }
    }

    fn link(target: &str) -> Inode {
        Inode { meta: Meta::default(), kind: Kind::Symlink(target.as_bytes().into()) }
    }

    fn find<'a>(tree: &'a Tree, path: &str) -> Option<&'a Inode> {
        let names = path.split('/').filter(|name| !name.is_empty());
        let id = names.into_iter().try_fold(ROOT, |dir, name| tree.child(dir, name.as_bytes()))?;
        Some(tree.get(id))
    }

    #[test]
    fn paths_stay_inside() {
        let mut placer = Placer::new();
        placer.put(b"/etc//./passwd", file(1)).unwrap();
        assert!(find(&placer.tree, "etc/passwd").is_some());
        for path in ["../x", "a/../../x", "..", "/.."] {
            assert!(placer.put(path.as_bytes(), file(1)).is_err(), "{path}");
            assert!(placer.hard_link(b"y", path.as_bytes()).is_err(), "{path}");
        }
        assert!(placer.put(b"./", file(1)).is_err());
        assert!(placer.put(&b"x/".repeat(40_000), dir()).is_err());
        placer.put(&b"x/".repeat(20_000), dir()).unwrap();
    }

    #[test]
    fn symbolic_links_are_followed_inside_the_image() {
        let mut placer = Placer::new();
        placer.put(b"usr/lib", dir()).unwrap();
        placer.put(b"lib", link("usr/lib")).unwrap();
        placer.put(b"lib/x", file(1)).unwrap();
        placer.put(b"usr/up", link("../../../usr/./lib")).unwrap();
        placer.put(b"usr/up/y", file(2)).unwrap();
        placer.put(b"abs", link("/usr/up")).unwrap();
        placer.put(b"abs/z", file(3)).unwrap();
        for name in ["x", "y", "z"] {
            assert!(find(&placer.tree, &format!("usr/lib/{name}")).is_some(), "{name}");
        }
        placer.put(b"loop", link("loop")).unwrap();
        assert!(placer.put(b"loop/x", file(1)).is_err());
        placer.put(b"none", link("/no/such")).unwrap();
        assert!(placer.put(b"none/x", file(1)).is_err());
        placer.put(b"file", link("usr/lib/x")).unwrap();
        assert!(placer.put(b"file/x", file(1)).is_err());
    }

    #[test]
    fn the_last_entry_of_a_name_wins() {
        let mut placer = Placer::new();
        placer.put(b"a", file(1)).unwrap();
        placer.hard_link(b"b", b"/a").unwrap();
        placer.put(b"a", file(2)).unwrap();
        assert_eq!(find(&placer.tree, "a").unwrap(), &file(2));
        assert_eq!(find(&placer.tree, "b").unwrap(), &file(1));
        placer.put(b"a", dir()).unwrap();
        placer.put(b"a/x", file(3)).unwrap();
        placer.put(b"a", Inode { meta: Meta { mode: 0o700, ..Meta::default() }, ..dir() }).unwrap();
        assert_eq!(find(&placer.tree, "a").unwrap().meta.mode, 0o700);
        assert!(find(&placer.tree, "a/x").is_some());
        assert!(placer.put(b"a", file(4)).is_err());
        assert!(placer.hard_link(b"a", b"b").is_err());
        assert!(placer.hard_link(b"c", b"a").is_err());
        assert!(placer.hard_link(b"c", b"none").is_err());
        placer.hard_link(b"b", b"b").unwrap();
    }
}
