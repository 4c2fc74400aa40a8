//! The lab's disk and kernel, made once a user and shared by all checkouts.
//!
//! One Debian tree serves twice: as the lab's own root (an ext4 image, with the kernel's modules added) and, as
//! an EROFS image in it, as the root of the sandboxes under test. Nothing here names a mirror: suites and
//! hosts are the machine's own apt configuration.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::host::{self, as_root, run_quietly, say};

/// Part of the cache's key: raise it when the recipe below changes.
const RECIPE: u32 = 2;

/// What `/srv/debian` has on top of Debian's minbase.
const DEBIAN: &str = "python3,perl,gcc,libc6-dev,make,git,sqlite3,procps,iproute2,iputils-ping,passt,\
    iperf3,tcpdump";

/// Paths left out of the tree: text for people, in every language.
const EXCLUDED: &[&str] = &["doc", "man", "locale", "info"];

/// A fixed UUID makes EROFS images reproducible.
const UUID: &str = "52494e47-4645-4e43-4500-000000000001";

/// The host packages that make and run the lab.
const PACKAGES: &[&str] =
    &["qemu-system-x86", "busybox-static", "e2fsprogs", "erofs-utils", "kmod", "mmdebstrap", "dpkg"];

/// The files a lab starts from.
pub struct Image {
    /// Debian's cloud kernel.
    pub kernel: PathBuf,
    /// The raw disk image.
    pub disk: PathBuf,
}

/// The image, made first if this user has none yet.
pub fn ensure() -> Result<Image> {
    host::ensure_packages(PACKAGES)?;
    let suite = suite()?;
    let directory = host::cache_dir()?.join("lab").join(format!("{suite}-{RECIPE}"));
    once(&directory, "making the lab's disk image (once; a minute or two)", |work| make(work, &suite))?;
    Ok(Image { kernel: directory.join("vmlinuz"), disk: directory.join("root.ext4") })
}

/// The release of Debian this machine runs.
pub(super) fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let field = |name: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    ensure!(
        field("ID") == "debian",
        "the lab is made from the machine's own Debian packages; this is not Debian"
    );
    Ok(field("VERSION_CODENAME"))
}

/// Makes `directory` by `make` unless it is there; it appears whole or not at all.
pub(super) fn once(directory: &Path, what: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if directory.exists() {
        return Ok(());
    }
    let _lock = host::lock(&directory.with_extension("lock"))?;
    if directory.exists() {
        return Ok(());
    }
    say(what);
    let start = Instant::now();
    let work = directory.with_extension("new");
    run_quietly(as_root("rm").arg("-rf").arg(&work))?;
    fs::create_dir_all(&work)?;
    make(&work)?;
    fs::rename(&work, directory)?;
    say(&format!("made {} in {} s", directory.display(), start.elapsed().as_secs()));
    Ok(())
}

/// The Debian image of the lab's `/srv/debian.erofs`, as a file on this machine.
pub fn debian() -> Result<PathBuf> {
    let image = ensure()?;
    let place = image.disk.with_file_name("debian.erofs");
    if !place.exists() {
        let temporary = place.with_extension(format!("new.{}", std::process::id()));
        let dump = format!("dump /srv/debian.erofs {}", temporary.display());
        run_quietly(Command::new("/sbin/debugfs").args(["-R", &dump]).arg(&image.disk))?;
        fs::rename(&temporary, &place)?;
    }
    Ok(place)
}

fn make(work: &Path, suite: &str) -> Result<()> {
    let tree = work.join("tree");
    let exclude = EXCLUDED.iter().map(|path| format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    make_tree(work, &tree, suite, DEBIAN, &exclude.collect::<Vec<_>>())?;
    let erofs = work.join("debian.erofs");
    make_erofs(&erofs, &tree, 0)?;

    let kernel_package = work.join("kernel");
    let modules = fetch_kernel(work, &kernel_package)?;
    let install = |args: &[&str], from: &Path, to: &str| {
        run_quietly(as_root("cp").args(args).arg(from).arg(tree.join(to)))
    };
    run_quietly(as_root("mkdir").arg("-p").arg(tree.join("usr/lib/modules")).arg(tree.join("srv/debian")))?;
    install(&["-a"], &modules, "usr/lib/modules/")?;
    let version = modules.file_name().context("the kernel package has no modules")?;
    run_quietly(as_root("/sbin/depmod").arg("-b").arg(&tree).arg(version))?;
    install(&["-L"], Path::new("/bin/busybox"), "usr/local/bin/busybox")?;
    for applet in ["modprobe", "lsmod"] {
        run_quietly(as_root("ln").args(["-s", "busybox"]).arg(tree.join("usr/local/bin").join(applet)))?;
    }
    install(&[], &work.join("vmlinuz"), "boot/vmlinuz")?;
    run_quietly(as_root("mv").arg(&erofs).arg(tree.join("srv/debian.erofs")))?;

    make_disk(&work.join("root.ext4"), &tree, "4G")?;
    run_quietly(as_root("rm").arg("-rf").arg(&tree).arg(&kernel_package))?;
    Ok(())
}

/// An EROFS image of a tree, whose files can be mapped from it and all have the same `date`, in seconds since 1970.
pub(super) fn make_erofs(image: &Path, tree: &Path, date: u32) -> Result<()> {
    let mut command = as_root("mkfs.erofs");
    command.args(["-Enoinline_data", &format!("-T{date}"), "-U", UUID, "--quiet"]).arg(image).arg(tree);
    run_quietly(&mut command)?;
    Ok(())
}

/// An ext4 disk of a tree, ours to read.
pub(super) fn make_disk(disk: &Path, tree: &Path, size: &str) -> Result<()> {
    run_quietly(
        as_root("mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-L", "lab", "-d"])
            .arg(tree)
            .arg(disk)
            .arg(size),
    )?;
    run_quietly(as_root("chown").arg(rustix::process::geteuid().as_raw().to_string()).arg(disk))?;
    Ok(())
}

/// A Debian tree of minbase and `packages`, from the machine's own apt sources. The sources of packages can be
/// had, too, from `options` that are hooks of mmdebstrap.
pub(super) fn make_tree(
    work: &Path,
    tree: &Path,
    suite: &str,
    packages: &str,
    options: &[String],
) -> Result<()> {
    let format = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)";
    let targets = |format| {
        run_quietly(Command::new("apt-get").args([
            "indextargets",
            "--format",
            format,
            "Created-By: Packages",
        ]))
    };
    let mut indexes = targets(format)?;
    if indexes.is_empty() {
        run_quietly(as_root("apt-get").arg("update"))?;
        indexes = targets(format)?;
    }
    let mut sources = String::new();
    for index in indexes.lines() {
        let [origin, uri, release, codename, component] = index.split('|').collect::<Vec<_>>()[..] else {
            bail!("apt-get indextargets says {index:?}");
        };
        if origin == "Debian" && codename.split('-').next() == Some(suite) && component == "main" {
            sources.push_str(&format!("deb {uri} {release} main\ndeb-src {uri} {release} main\n"));
        }
    }
    ensure!(!sources.is_empty(), "the machine's apt configuration has no source of Debian {suite} main");
    let list = work.join("sources.list");
    fs::write(&list, sources)?;
    let mut command = as_root("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", &format!("--include={packages}")]).args(options);
    for line in run_quietly(Command::new("apt-config").arg("dump"))?.lines() {
        if line.to_ascii_lowercase().starts_with("acquire::http") && line.contains("roxy") {
            command.arg(format!("--aptopt={line}"));
        }
    }
    run_quietly(command.arg(suite).arg(tree).arg(&list)).context("making the Debian tree")?;
    Ok(())
}

/// Debian's cloud kernel, unpacked: `vmlinuz` in `work`; its module directory is returned.
fn fetch_kernel(work: &Path, unpacked: &Path) -> Result<PathBuf> {
    let depends = run_quietly(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .context("linux-image-cloud-amd64 is not in the package lists")?;
    run_quietly(Command::new("apt-get").args(["download", "-q", package]).current_dir(work))?;
    let archive = find(work, |name| name.ends_with(".deb"))?;
    run_quietly(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(unpacked))?;
    fs::remove_file(archive)?;
    let kernel = find(&unpacked.join("boot"), |name| name.starts_with("vmlinuz"))?;
    fs::copy(kernel, work.join("vmlinuz"))?;
    let modules = if unpacked.join("usr/lib/modules").exists() { "usr/lib/modules" } else { "lib/modules" };
    find(&unpacked.join(modules), |_| true)
}

fn find(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        if wanted(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    bail!("what was expected in {} is not there", directory.display())
}
