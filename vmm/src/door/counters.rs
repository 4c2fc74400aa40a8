//! What the devices and the vCPUs have counted, gathered for the supervisor when it asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::BalloonSize;
use crate::machine::vcpu::Shared;
use crate::stats::Exits;

/// Counters of the VMM now.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Exits to the VMM, by reason.
    pub exits: Exits,
    /// Those of each device, by the device's name and their own.
    pub devices: BTreeMap<String, BTreeMap<String, u64>>,
    /// Those of each network interface.
    pub interfaces: Vec<BTreeMap<String, u64>>,
    /// Address and length of the image in the process.
    pub image: Option<(u64, u64)>,
    /// Of the balloon.
    pub balloon: BalloonSize,
}

type Read = Box<dyn Fn() -> BTreeMap<String, u64>>;

/// Where counters are.
pub struct Devices {
    shared: Arc<Shared>,
    image: Option<(u64, u64)>,
    devices: Vec<(&'static str, Read)>,
    interfaces: Vec<Read>,
}

impl Devices {
    /// Those of the vCPUs; `image`: its address and length in this process.
    pub fn new(shared: Arc<Shared>, image: Option<(u64, u64)>) -> Devices {
        Devices { shared, image, devices: Vec::new(), interfaces: Vec::new() }
    }

    /// Adds those of a device: a struct of counters. Those of several with one name are summed. The table in `api/metrics.rs` says what each means.
    pub fn add<M: Serialize + 'static>(&mut self, name: &'static str, metrics: Arc<M>) {
        self.devices.push((name, reader(metrics)));
    }

    /// Adds those of the next network interface.
    pub fn add_interface<M: Serialize + 'static>(&mut self, metrics: Arc<M>) {
        self.interfaces.push(reader(metrics));
    }

    pub(super) fn counters(&self, balloon: BalloonSize) -> Counters {
        let mut devices: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (name, read) in &self.devices {
            let sums = devices.entry((*name).to_owned()).or_default();
            read().into_iter().for_each(|(counter, n)| *sums.entry(counter).or_default() += n);
        }
        let interfaces = self.interfaces.iter().map(|read| read()).collect();
        Counters { exits: Exits::from(&self.shared.exits), image: self.image, devices, interfaces, balloon }
    }
}

fn reader<M: Serialize + 'static>(metrics: Arc<M>) -> Read {
    Box::new(move || {
        let value = serde_json::to_value(&*metrics).unwrap_or_default();
        serde_json::from_value(value).unwrap_or_default()
    })
}
