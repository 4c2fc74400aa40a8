//! Random trees.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use crate::support::{assert_same, dir, of_host, of_image, pack, run, set_xattr, write_pattern};

/// What a name in a random tree is.
#[derive(Clone, Debug)]
enum Node {
    File(usize, Option<Vec<u8>>),
    Link(usize),
    Dir(BTreeMap<Vec<u8>, Node>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![8 => b'a'..=b'z', 1 => 1..=255u8];
    let len = prop_oneof![8 => 1..12usize, 1 => 200..=255usize];
    len.prop_flat_map(move |len| proptest::collection::vec(byte.clone(), len))
        .prop_filter("a name", |name| !name.contains(&b'/') && name != b"." && name != b"..")
}

fn node() -> impl Strategy<Value = Node> {
    let size = prop_oneof![Just(0), 1..100usize, 4000..4200usize, 0..20_000usize];
    let xattr = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
    let leaf = prop_oneof![
        3 => (size, xattr).prop_map(|(size, xattr)| Node::File(size, xattr)),
        1 => prop_oneof![1..80usize, 3900..4096usize].prop_map(Node::Link),
    ];
    leaf.prop_recursive(4, 200, 60, |inner| {
        let few = proptest::collection::btree_map(name(), inner.clone(), 0..60);
        few.prop_map(Node::Dir)
    })
}

fn make(path: &Path, node: &Node) {
    match node {
        Node::File(size, xattr) => {
            write_pattern(path, *size);
            xattr.iter().for_each(|value| set_xattr(path, "user.test", value));
        }
        Node::Link(len) => symlink("t".repeat(*len), path).unwrap(),
        Node::Dir(entries) => {
            fs::create_dir(path).unwrap();
            for (name, node) in entries {
                make(&path.join(OsStr::from_bytes(name)), node);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn random_trees(entries in proptest::collection::btree_map(name(), node(), 0..20)) {
        let dir = dir("random");
        let (tree, image) = (dir.join("tree"), dir.join("image"));
        make(&tree, &Node::Dir(entries));
        pack(&tree, &image);
        assert_same(&of_image(&image), &of_host(&tree));
        run(Command::new("fsck.erofs").arg(&image));
    }
}
