//! Random operations on a tmpfs, alone and over a lower tree, held against a model.

use alloc::{collections::BTreeMap, format, string::String, vec, vec::Vec};

use proptest::prelude::*;

use super::Tmpfs;
use crate::{
    errno::Errno,
    fs::{FileType, OpenFlags, RenameFlags, dentry, testing::*},
};

#[derive(Clone, Debug)]
enum Op {
    Write(String, u16, Vec<u8>),
    Truncate(String, u16),
    Mkdir(String),
    Symlink(String, String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, bool),
    Shrink,
}

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Dir(BTreeMap<String, usize>),
    Link(String),
}

/// Inodes by number; 0 is the root. What has no name any more stays, unreachable.
#[derive(Clone)]
struct Model(Vec<Node>);

impl Model {
    fn new() -> Model {
        Model(vec![Node::Dir(BTreeMap::new())])
    }

    /// The directory and last name of a path without links in the middle (the generator makes none).
    fn parent(&self, path: &str) -> Result<(usize, String), Errno> {
        let (dir, name) = path.rsplit_once('/').unwrap();
        let dir = self.find(dir)?;
        if !self.is_dir(dir) {
            return Err(Errno::ENOTDIR);
        }
        Ok((dir, name.into()))
    }

    fn find(&self, path: &str) -> Result<usize, Errno> {
        let mut at = 0;
        for part in path.split('/').filter(|p| !p.is_empty()) {
            match &self.0[at] {
                Node::Dir(names) => at = *names.get(part).ok_or(Errno::ENOENT)?,
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Ok(at)
    }

    fn names(&mut self, dir: usize) -> Result<&mut BTreeMap<String, usize>, Errno> {
        match &mut self.0[dir] {
            Node::Dir(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn add(&mut self, path: &str, node: Node) -> Result<(), Errno> {
        let (dir, name) = self.parent(path)?;
        let id = self.0.len();
        if self.names(dir)?.contains_key(&name) {
            return Err(Errno::EEXIST);
        }
        self.names(dir)?.insert(name, id);
        self.0.push(node);
        Ok(())
    }

    fn is_dir(&self, id: usize) -> bool {
        matches!(self.0[id], Node::Dir(_))
    }

    fn below(&self, id: usize, ancestor: usize) -> bool {
        id == ancestor
            || match &self.0[ancestor] {
                Node::Dir(names) => names.values().any(|c| self.below(id, *c)),
                _ => false,
            }
    }

    fn apply(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Write(path, at, bytes) => {
                let (dir, _) = self.parent(path)?;
                self.names(dir)?;
                match self.find(path) {
                    Ok(id) => match &mut self.0[id] {
                        Node::File(content) => {
                            let end = *at as usize + bytes.len();
                            if content.len() < end && !bytes.is_empty() {
                                content.resize(end, 0);
                            }
                            if !bytes.is_empty() {
                                content[*at as usize..end].copy_from_slice(bytes);
                            }
                            Ok(())
                        }
                        Node::Dir(_) => Err(Errno::EISDIR),
                        Node::Link(_) => unreachable!("filtered"),
                    },
                    Err(Errno::ENOENT) => {
                        self.add(path, Node::File(Vec::new()))?;
                        self.apply(op)
                    }
                    Err(e) => Err(e),
                }
            }
            Op::Truncate(path, size) => {
                let id = self.find(path)?;
                match &mut self.0[id] {
                    Node::File(content) => content.resize(*size as usize, 0),
                    Node::Dir(_) => return Err(Errno::EISDIR),
                    Node::Link(_) => unreachable!("filtered"),
                }
                Ok(())
            }
            Op::Mkdir(path) => self.add(path, Node::Dir(BTreeMap::new())),
            Op::Symlink(target, path) => self.add(path, Node::Link(target.clone())),
            Op::Link(old, new) => {
                let id = self.find(old)?;
                let (dir, name) = self.parent(new)?;
                let is_dir = self.is_dir(id);
                let names = self.names(dir)?;
                if is_dir {
                    return Err(Errno::EPERM);
                }
                if names.contains_key(&name) {
                    return Err(Errno::EEXIST);
                }
                names.insert(name, id);
                Ok(())
            }
            Op::Unlink(path) => {
                let (dir, name) = self.parent(path)?;
                let id = *self.names(dir)?.get(&name).ok_or(Errno::ENOENT)?;
                if self.is_dir(id) {
                    return Err(Errno::EISDIR);
                }
                self.names(dir)?.remove(&name);
                Ok(())
            }
            Op::Rmdir(path) => {
                let (dir, name) = self.parent(path)?;
                let id = *self.names(dir)?.get(&name).ok_or(Errno::ENOENT)?;
                match &self.0[id] {
                    Node::Dir(names) if names.is_empty() => {}
                    Node::Dir(_) => return Err(Errno::ENOTEMPTY),
                    _ => return Err(Errno::ENOTDIR),
                }
                self.names(dir)?.remove(&name);
                Ok(())
            }
            Op::Rename(old, new, exchange) => self.rename(old, new, *exchange),
            Op::Shrink => Ok(()),
        }
    }

    fn rename(&mut self, old: &str, new: &str, exchange: bool) -> Result<(), Errno> {
        let ((from, old_name), (to, new_name)) = (self.parent(old)?, self.parent(new)?);
        self.names(from)?;
        self.names(to)?;
        let id = *self.names(from)?.get(&old_name).ok_or(Errno::ENOENT)?;
        let target = self.names(to)?.get(&new_name).copied();
        if exchange && target.is_none() {
            return Err(Errno::ENOENT);
        }
        if self.below(to, id) {
            return Err(Errno::EINVAL);
        }
        if target.is_some_and(|t| self.below(from, t)) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if target == Some(id) {
            return Ok(());
        }
        if let (Some(t), false) = (target, exchange) {
            match (&self.0[t], self.is_dir(id)) {
                (Node::Dir(_), false) => return Err(Errno::EISDIR),
                (Node::Dir(names), true) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
                (Node::File(_) | Node::Link(_), true) => return Err(Errno::ENOTDIR),
                _ => {}
            }
        }
        self.names(from)?.remove(&old_name);
        self.names(to)?.insert(new_name, id);
        if let (Some(t), true) = (target, exchange) {
            self.names(from)?.insert(old_name, t);
        }
        Ok(())
    }

    /// Whether a final link would be followed.
    fn is_link(&self, path: &str) -> bool {
        self.find(path).is_ok_and(|id| matches!(self.0[id], Node::Link(_)))
    }

    fn links_of(&self, id: usize) -> usize {
        let mut n = 0;
        let mut pending = vec![0];
        while let Some(at) = pending.pop() {
            if let Node::Dir(names) = &self.0[at] {
                n += names.values().filter(|c| **c == id).count();
                pending.extend(names.values());
            }
        }
        n
    }
}

fn apply(w: &World, op: &Op) -> Result<(), Errno> {
    match op {
        Op::Write(path, at, bytes) => w.write(path, u64::from(*at), bytes).map(|_| ()),
        Op::Truncate(path, size) => w.truncate(path, u64::from(*size)),
        Op::Mkdir(path) => w.mkdir(path).map(|_| ()),
        Op::Symlink(target, path) => w.symlink(target, path).map(|_| ()),
        Op::Link(old, new) => w.link(old, new),
        Op::Unlink(path) => w.unlink(path),
        Op::Rmdir(path) => w.rmdir(path),
        Op::Rename(old, new, exchange) => {
            let flags = if *exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
            w.rename(old, new, flags)
        }
        Op::Shrink => {
            dentry::shrink();
            Ok(())
        }
    }
}

fn compare(w: &World, m: &Model, path: &str, id: usize) {
    match &m.0[id] {
        Node::File(content) => {
            assert_eq!(&w.read(path).unwrap(), content, "content of {path}");
            let nlink = w.resolve(path).unwrap().inode().unwrap().metadata().nlink;
            assert_eq!(nlink as usize, m.links_of(id), "links of {path}");
        }
        Node::Link(target) => {
            let inode = w.resolve_link(path).unwrap().inode().unwrap().clone();
            assert_eq!(inode.kind(), FileType::Symlink);
            assert_eq!(inode.readlink(None).unwrap(), target.as_bytes());
        }
        Node::Dir(names) => {
            let mut listed = w.list(if path.is_empty() { "/" } else { path }).unwrap();
            listed.sort();
            let want: Vec<Vec<u8>> = names.keys().map(|n| n.as_bytes().to_vec()).collect();
            assert_eq!(listed, want, "names in {path}/");
            let subdirs = names.values().filter(|c| m.is_dir(**c)).count();
            let file = w.open(if path.is_empty() { "/" } else { path }, OpenFlags::DIRECTORY).unwrap();
            assert_eq!(file.metadata().nlink as usize, subdirs + 2, "links of {path}/");
            for (name, child) in names {
                compare(w, m, &format!("{path}/{name}"), *child);
            }
        }
    }
}

fn run(w: &World, m: &mut Model, ops: &[Op]) {
    for op in ops {
        // The model does not follow links.
        if let Op::Write(path, ..) | Op::Truncate(path, _) = op
            && m.is_link(path)
        {
            continue;
        }
        if paths(op).iter().any(|p| through_link(m, p)) {
            continue;
        }
        let want = m.apply(op);
        assert_eq!(apply(w, op), want, "{op:?}");
    }
    compare(w, m, "", 0);
}

fn paths(op: &Op) -> Vec<&str> {
    match op {
        Op::Write(p, ..)
        | Op::Truncate(p, _)
        | Op::Mkdir(p)
        | Op::Symlink(_, p)
        | Op::Unlink(p)
        | Op::Rmdir(p) => vec![p],
        Op::Link(a, b) | Op::Rename(a, b, _) => vec![a, b],
        Op::Shrink => vec![],
    }
}

fn through_link(m: &Model, path: &str) -> bool {
    let mut prefix = path;
    while let Some((parent, _)) = prefix.rsplit_once('/') {
        if m.is_link(parent) {
            return true;
        }
        prefix = parent;
    }
    false
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|p| format!("/{}", p.join("/")))
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        4 => (path(), 0u16..9000, bytes).prop_map(|(p, at, b)| Op::Write(p, at, b)),
        1 => (path(), 0u16..9000).prop_map(|(p, n)| Op::Truncate(p, n)),
        3 => path().prop_map(Op::Mkdir),
        1 => path().prop_map(|p| Op::Symlink("a/b".into(), p)),
        1 => (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        3 => (path(), path(), any::<bool>()).prop_map(|(a, b, x)| Op::Rename(a, b, x)),
        1 => Just(Op::Shrink),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tmpfs_behaves_as_the_model(ops in prop::collection::vec(op(), 1..60)) {
        run(&World::tmpfs(), &mut Model::new(), &ops);
    }

    #[test]
    fn overlay_behaves_as_the_model(
        below in prop::collection::vec(op(), 1..40),
        above in prop::collection::vec(op(), 1..60),
    ) {
        let (lower, mut model) = (World::tmpfs(), Model::new());
        run(&lower, &mut model, &below);
        let before = model.clone();
        let upper = World::new(Tmpfs::over(lower.root.mount().superblock().fs().clone(), &options()));
        compare(&upper, &model, "", 0);
        run(&upper, &mut model, &above);
        compare(&lower, &before, "", 0);
    }
}
