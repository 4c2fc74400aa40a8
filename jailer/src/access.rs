//! Landlock: a process gives up what is reached by name, whatever root, ids and rights it has.
//!
//! It is the third lock on that door: the VMM's root is empty, and its filter of system calls knows no call that takes
//! a path, an address or another process. It is there because it is cheap (14,000 instructions) and holds where the
//! others would fail: before the filter is in place, and against a way around mount namespaces. What is open stays
//! usable. Hosts have it from Linux 5.13 on, if it is among the LSMs of their boot; how much of it depends on the version (network
//! ports from 6.7, signals and abstract sockets from 6.12), so it is asked for all and takes what there is.

use landlock::{ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, Scope};

/// The newest version whose words we know.
const NEWEST: ABI = ABI::V6;

/// Why a kernel that has Landlock does not apply it.
pub type AccessError = landlock::RulesetError;

/// The calling thread, and those it will start, open, make, remove and execute no file any more, reach no TCP port, and
/// neither signal nor connect to what is not as confined. Returns the version of Landlock, `None` where there is none.
pub fn give_up() -> Result<Option<i32>, AccessError> {
    let nothing = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(match nothing.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Some(kernel_abi.unwrap_or(effective_abi as i32))
        }
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_are_closed_to_who_gave_them_up() {
        let open = || std::fs::File::open("/proc/self/stat").is_ok();
        // A thread of its own: the others go on with theirs.
        let there = std::thread::spawn(move || (super::give_up().unwrap(), open())).join().unwrap();
        assert_eq!(there.1, there.0.is_none());
        assert!(open());
    }
}
