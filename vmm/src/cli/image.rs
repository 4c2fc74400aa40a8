//! `ringfence image`: EROFS images of root trees. The work is done by `ringfence-image`; here are its options and
//! words.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ringfence_image::cache::Entry;
use ringfence_image::{Cache, Options, Summary, build_from_dir, build_from_tar, inspect, inspect_file};
use serde::Serialize;

use super::progress::Line;
use super::{Failure, Format, report};

/// Arguments of `image`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Pack a directory or tar archive into an image
    Build(Build),
    /// Say what an image is, or why it cannot be used
    Inspect {
        /// The image
        #[arg(value_name = "FILE")]
        image: PathBuf,
        /// How the result is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// List the images cached by `run --rootfs`
    Ls {
        /// How the list is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Remove cached images; running sandboxes keep theirs until they end
    Rm {
        /// Keys or beginnings of them, as `image ls` shows
        #[arg(value_name = "KEY", required_unless_present = "all")]
        keys: Vec<String>,
        /// Remove all
        #[arg(long, conflicts_with = "keys")]
        all: bool,
        /// How the list of what was removed is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

#[derive(Debug, clap::Args)]
struct Build {
    /// Directory, or tar archive (plain or gzip); `-` reads an archive from standard input
    #[arg(value_name = "DIR|TAR")]
    source: PathBuf,
    /// The image to write; it is replaced if it exists
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Let everything belong to this user and group, by number
    #[arg(long, value_name = "UID:GID", value_parser = owner)]
    owner: Option<(u32, u32)>,
    /// Pack what is mounted inside of DIR, too
    #[arg(long)]
    cross_mounts: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    parsed.ok_or_else(|| format!("`{text}` is not an owner; write two numbers, for example 0:0"))
}

/// Runs `ringfence image`.
pub fn main(args: &Args) -> Result<u8, Failure> {
    match &args.command {
        Command::Build(args) => build(args)?,
        Command::Inspect { image, format } => {
            let info = inspect(image).map_err(Failure::setup)?;
            let uuid: String = info.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
            print(*format, &info, || format!("{} files, {}, id {uuid}\n", info.inodes, amount(info.size)))?;
        }
        Command::Ls { format } => {
            let entries = cache()?.list().map_err(Failure::setup)?;
            print(*format, &entries, || table(&entries))?;
        }
        Command::Rm { keys, all, format } => {
            let cache = cache()?;
            let removed = match all {
                true => cache.remove_all().map_err(Failure::setup)?,
                false => {
                    let removed = keys.iter().map(|key| cache.remove(key)).collect::<Result<_, _>>();
                    removed.map_err(Failure::setup)?
                }
            };
            print(*format, &removed, || {
                removed.iter().map(|entry| format!("removed {}\n", short(&entry.key))).collect()
            })?;
        }
    }
    Ok(0)
}

/// Refuses what is not an EROFS image before a machine is built for it.
pub fn check(file: &File, path: &Path) -> Result<(), Failure> {
    inspect_file(file, path).map(|_| ()).map_err(Failure::setup)
}

/// Why a file that could not be opened is no image, with advice, if that can be told.
pub fn why_not(path: &Path) -> Option<Failure> {
    inspect(path).err().map(Failure::setup)
}

/// The cached image of a directory, made now if need be.
pub fn of_directory(dir: &Path) -> Result<PathBuf, Failure> {
    let mut line = Line::new(format!("packing {}", dir.display()));
    let found = cache()?.image_of(dir, &mut |progress| line.show(progress)).map_err(Failure::setup)?;
    drop(line);
    found.made.iter().flat_map(|made| &made.warnings).for_each(|warning| report(warning));
    Ok(found.path)
}

fn cache() -> Result<Cache, Failure> {
    Cache::of_user().map_err(Failure::setup)
}

fn build(args: &Build) -> Result<(), Failure> {
    let clamp_mtime = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => Some(text.parse().map_err(|_| {
            Failure::setup(format!(
                "SOURCE_DATE_EPOCH is `{text}`, not a number of seconds; correct or unset it"
            ))
        })?),
        Err(_) => None,
    };
    let options = Options { clamp_mtime, owner: args.owner, cross_mounts: args.cross_mounts, uuid: None };
    let mut line = Line::new(format!("packing {}", args.source.display()));
    let mut progress = |p| line.show(p);
    let summary = if args.source == Path::new("-") {
        build_from_tar(std::io::stdin().lock(), &args.output, &options, &mut progress)
    } else if args.source.is_dir() {
        build_from_dir(&args.source, &args.output, &options, &mut progress)
    } else {
        let archive = File::open(&args.source)
            .map_err(|e| Failure::setup(format!("cannot open {}: {e}", args.source.display())))?;
        build_from_tar(archive, &args.output, &options, &mut progress)
    };
    let summary = summary.map_err(Failure::setup)?;
    drop(line);
    #[derive(Serialize)]
    struct Built<'a> {
        image: std::borrow::Cow<'a, str>,
        #[serde(flatten)]
        summary: &'a Summary,
    }
    let built = Built { image: args.output.to_string_lossy(), summary: &summary };
    if args.format == Format::Text {
        summary.warnings.iter().for_each(|warning| report(warning));
    }
    print(args.format, &built, || {
        format!("{}: {} files, {}\n", built.image, summary.inodes, amount(summary.size))
    })
}

fn print(format: Format, value: &impl Serialize, words: impl FnOnce() -> String) -> Result<(), Failure> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(value).map_err(Failure::setup)? + "\n",
        Format::Text => words(),
    };
    let mut out = std::io::stdout();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    done.map_err(|e| Failure::setup(format!("cannot print: {e}")))
}

/// The part of a key that people need.
fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

fn table(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no cached images; `ringfence run --rootfs DIR` makes them\n".into();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut text = format!("{:<12}  {:>9}  {:<16}  DIRECTORY\n", "KEY", "SIZE", "LAST USED");
    for entry in entries {
        let source = entry.source.as_ref().map_or("?".into(), |source| source.to_string_lossy());
        let age = ago(now.saturating_sub(entry.last_used));
        text += &format!("{}  {:>9}  {age:<16}  {source}\n", short(&entry.key), amount(entry.size));
    }
    text
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
    }
}

fn ago(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_people() {
        assert_eq!(amount(4096), "4 KiB");
        assert_eq!(amount(5 << 20), "5 MiB");
        assert_eq!(amount(3 << 29), "1.5 GiB");
        assert_eq!(ago(59), "just now");
        assert_eq!(ago(60), "1 minute ago");
        assert_eq!(ago(3 * 86_400), "3 days ago");
        assert_eq!(owner("0:5"), Ok((0, 5)));
        assert!(owner("root").is_err());
    }
}
