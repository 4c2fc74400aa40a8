//! Where the user's cache is.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::{Error, Result};

/// The place by the environment of this process.
pub fn of_user() -> Result<PathBuf> {
    choose(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"), rustix::process::geteuid().is_root())
}

/// Relative paths are ignored, as the XDG base directory specification says.
fn choose(cache_home: Option<OsString>, home: Option<OsString>, root: bool) -> Result<PathBuf> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(cache_home).or_else(|| absolute(home).map(|home| home.join(".cache")));
    match base {
        Some(base) => Ok(base.join("ringfence/images")),
        None if root => Ok("/var/cache/ringfence/images".into()),
        None => Err(Error::NoCache),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_environment() {
        let chosen = |cache: &str, home: &str, root| {
            let set = |value: &str| Some(value).filter(|v| !v.is_empty()).map(OsString::from);
            choose(set(cache), set(home), root).ok()
        };
        assert_eq!(chosen("/c", "/h", false), Some("/c/ringfence/images".into()));
        assert_eq!(chosen("relative", "/h", true), Some("/h/.cache/ringfence/images".into()));
        assert_eq!(chosen("", "", true), Some("/var/cache/ringfence/images".into()));
        assert_eq!(chosen("", "", false), None);
    }
}
