//! The lab's second disk: server programs, unmodified from Debian.
//!
//! Databases, web servers, language run-times, debuggers and Python's own regression tests, in one image that is
//! mounted on `/srv/programs` in the lab and is `/srv/programs.erofs` for sandboxes. It is made when first asked for
//! (`cargo xtask lab programs`, or the suite `programs`), and a lab that starts when it exists has it.
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::image;
use crate::host::{self, as_root, run_quietly};

/// Part of the cache's key: raise it when the recipe below changes.
const RECIPE: u32 = 4;

/// The date of its files, 2020-01-01: there are no dates before 1980 in a zip archive.
const DATE: u32 = 1_577_836_800;

/// The disk's name in its directory.
const DISK: &str = "programs.ext4";

/// What the image has on top of Debian's minbase.
const PACKAGES: &str = "python3,python3-venv,python3-distutils,libpython3.11-testsuite,perl,gcc,g++,libc6-dev,make,\
    git,sqlite3,procps,psmisc,file,xz-utils,bzip2,zip,unzip,attr,libcap2-bin,util-linux,curl,apt,gdb,strace,tmux,\
    postgresql-15,redis-server,nginx,nodejs,openjdk-17-jdk-headless,golang-go,\
    iproute2,iputils-ping,bind9-dnsutils,dnsmasq-base,iperf3,openssh-server,openssh-client,wget,socat,netcat-openbsd,\
    tcpdump,net-tools,wrk,netbase,python3-pip,rsync";

/// Run in the tree before its packages are installed: no database cluster is made by the installation.
const BEFORE: &str = r#"mkdir -p "$1/etc/postgresql-common"
    echo create_main_cluster = false > "$1/etc/postgresql-common/createcluster.conf""#;

/// Run in it afterwards: the sources of a project for `make` in `/usr/src/lua`, and packages for a local repository in
/// `/srv/repository`. Debian's package of Python's tests lacks `test_sqlite3`, which its source has.
const AFTER: &str = r#"set -e
    export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
    mkdir -p "$1/usr/src/lua" "$1/srv/repository"
    cd "$1/usr/src"
    apt-get source --download-only lua5.4
    tar -xf lua5.4_*.orig.tar.gz -C lua --strip-components=1
    rm -f lua5.4_*
    apt-get source --download-only --tar-only python3.11
    tar -xf python3.11_*.orig.tar.* -C "$1/usr/lib/python3.11/test" --strip-components=3 \
        --wildcards '*/Lib/test/test_sqlite3'
    rm -f python3.11_*
    cd "$1/srv/repository"
    apt-get download jq libjq1 libonig5"#;

/// The disk, if this user has it.
pub fn existing() -> Result<Option<PathBuf>> {
    let disk = directory()?.join(DISK);
    Ok(disk.exists().then_some(disk))
}

/// The disk, made first if this user has none yet.
pub fn ensure() -> Result<PathBuf> {
    image::ensure()?;
    let directory = directory()?;
    image::once(&directory, "making the disk with programs (once; some minutes)", |work| {
        let tree = work.join("tree");
        let mut options = vec![format!("--setup-hook={BEFORE}"), format!("--customize-hook={AFTER}")];
        for path in ["doc", "locale", "info"] {
            options.push(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
        }
        image::make_tree(work, &tree, &image::suite()?, PACKAGES, &options)?;
        let root = work.join("disk");
        fs::create_dir(&root)?;
        image::make_erofs(&root.join("programs.erofs"), &tree, DATE)?;
        image::make_disk(&work.join(DISK), &root, "3G")?;
        run_quietly(as_root("rm").arg("-rf").arg(&tree).arg(&root))?;
        Ok(())
    })?;
    Ok(directory.join(DISK))
}

fn directory() -> Result<PathBuf> {
    Ok(host::cache_dir()?.join("lab").join(format!("programs-{}-{RECIPE}", image::suite()?)))
}
