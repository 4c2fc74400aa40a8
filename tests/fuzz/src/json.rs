//! The JSON documents of the ramdisk and of the control connection, from either side.

use ringfence_protocol::{BootConfig, Request, ToGuest, ToHost};

/// Parses `data` as each of them; what is accepted must survive being written and read again.
pub fn run(data: &[u8]) {
    again::<BootConfig>(data);
    again::<ToGuest>(data);
    again::<ToHost>(data);
    again::<Request>(data);
}

fn again<T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<T>(data) else { return };
    let text = serde_json::to_vec(&document).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&text).expect("what was written can be read"), document);
}
