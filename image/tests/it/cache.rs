//! The cache of `--rootfs`.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use ringfence_image::{Cache, Error};

use crate::support::{dir, of_host, of_image, set_mtime};

fn files(cache: &Cache) -> Vec<String> {
    let names = fs::read_dir(cache.dir()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with("lock-")).collect();
    names.sort();
    names
}

#[test]
fn made_once_and_again_after_a_change() {
    let dir = dir("cache");
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "one").unwrap();
    set_mtime(&tree.join("file"), 1, 0);
    let cache = Cache::at(dir.join("cache/images"));
    assert_eq!(cache.list().unwrap(), []);
    let image = |expect: bool| {
        let found = cache.image_of(&tree, &mut |_| ()).unwrap();
        assert_eq!(found.made.is_some(), expect);
        assert_eq!(of_image(&found.path), of_host(&tree));
        found
    };
    let first = image(true);
    image(false);
    // Same size and time of modification: only the time of change tells.
    fs::write(tree.join("file"), "two").unwrap();
    set_mtime(&tree.join("file"), 1, 0);
    let second = image(true);
    assert_ne!(first.path, second.path);
    assert!(
        !first.path.exists() && first.file.metadata().unwrap().len() > 0,
        "removed, but good for who has it"
    );
    let list = cache.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].source.as_deref(), Some(&*fs::canonicalize(&tree).unwrap()));
    assert_eq!((&list[0].path, list[0].size), (&second.path, second.made.unwrap().size));
    assert!(list[0].created > 0 && list[0].last_used >= list[0].created);
    // A damaged image is made again.
    fs::write(&list[0].path, "damaged").unwrap();
    image(true);
    assert_eq!(files(&cache).len(), 2);
}

#[test]
fn two_runs_make_one_image() {
    let dir = dir("cache-twice");
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    for n in 0..200 {
        fs::write(tree.join(format!("{n}")), vec![n as u8; 10_000]).unwrap();
    }
    let cache = Cache::at(dir.join("images"));
    let barrier = Barrier::new(4);
    let made = thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    cache.image_of(&tree, &mut |_| ()).unwrap().made.is_some()
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).filter(|&made| made).count()
    });
    assert_eq!(made, 1);
}

#[test]
fn removal_by_key() {
    let dir = dir("cache-rm");
    let cache = Cache::at(dir.join("images"));
    for name in ["one", "two"] {
        fs::create_dir_all(dir.join("trees").join(name)).unwrap();
        cache.image_of(&dir.join("trees").join(name), &mut |_| ()).unwrap();
    }
    let keys: Vec<_> = cache.list().unwrap().into_iter().map(|entry| entry.key).collect();
    assert!(matches!(cache.remove(""), Err(Error::AmbiguousKey(_, 2))));
    assert!(matches!(cache.remove("xyz"), Err(Error::NoSuchKey(_))));
    assert!(matches!(cache.remove("../../etc"), Err(Error::NoSuchKey(_))));
    assert_eq!(cache.remove(&keys[0][..20]).unwrap().key, keys[0]);
    assert_eq!(cache.remove_all().unwrap().len(), 1);
    assert!(files(&cache).is_empty());
    assert!(matches!(cache.remove(""), Err(Error::NoSuchKey(_))));
}

#[test]
fn a_cache_inside_of_the_tree() {
    let dir = dir("cache-inside");
    let cache = Cache::at(dir.join("root/.cache/ringfence/images"));
    let tree = dir.join("root");
    fs::create_dir(&tree).unwrap();
    fs::create_dir_all(cache.dir()).unwrap();
    assert!(cache.image_of(&tree, &mut |_| ()).unwrap().made.is_some());
    assert!(cache.image_of(Path::new(&tree), &mut |_| ()).unwrap().made.is_none());
}
