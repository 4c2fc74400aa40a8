//! Holds `resources/openapi.yaml` to the code: the same calls, and documents with the same fields, of which the same are needed.

use std::collections::BTreeSet;

use ringfence_devices::net::policy::{Action, Rule};
use ringfence_devices::net::{Mac, Policy};
use ringfence_gofer::volume::{IdMap, IdRange};
use ringfence_protocol::{
    Cache, Container, ContainerState, ContainerStatus, CpuLimit, ExitStatus, GuestStats, Limits, Phase,
    Process, Root, Streams, SyscallCount, VolumeMount,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use super::calls::{Resize, SCHEMA, Shutdown, Signal, Started};
use super::config::{Boot, Config, Disk, Image, Jail, LogLevel, Machine, Mount};
use super::http::Fault;
use super::network::{Egress, Host, Interface, Network, Passt, Publish, Transport};
use super::reports::{Ended, Instance, Stats};
use super::routes::ROUTES;
use super::settings::{BalloonTarget, DiskLimits, LogLevels, RandomLimits};
use super::state::State;
use super::state::when::ALWAYS;
use crate::door::BalloonSize;
use crate::stats::{Exits, Memory};

fn file() -> Yaml {
    YamlLoader::load_from_str(SCHEMA).unwrap().remove(0)
}

fn keys(yaml: &Yaml) -> BTreeSet<String> {
    yaml.as_hash().into_iter().flatten().map(|(key, _)| key.as_str().unwrap().to_owned()).collect()
}

fn words(yaml: &Yaml) -> BTreeSet<String> {
    yaml.as_vec().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

#[test]
fn the_file_has_the_calls_of_the_table() {
    let file = file();
    let mut described = BTreeSet::new();
    for path in keys(&file["paths"]) {
        for method in keys(&file["paths"][path.as_str()]) {
            if method != "parameters" {
                let call = &file["paths"][path.as_str()][method.as_str()];
                let ok: Vec<_> =
                    keys(&call["responses"]).into_iter().filter(|code| code.starts_with('2')).collect();
                assert_eq!(ok.len(), 1, "{method} {path} has one answer if all is well");
                described.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    let table: BTreeSet<_> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(described, table);
}

/// The schema of that name has the fields of the sample, which has all there can be.
fn has_fields(name: &str, sample: &Value) {
    let schema = &file()["components"]["schemas"][name];
    let has: BTreeSet<_> = sample.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys(&schema["properties"]), has, "properties of {name}");
    assert_eq!(schema["additionalProperties"].as_bool(), Some(false), "{name} has nothing else");
}

/// The same for what we send: it is all there always.
fn tells(name: &str, sample: &impl Serialize) {
    let sample = serde_json::to_value(sample).unwrap();
    has_fields(name, &sample);
    let has: BTreeSet<_> = sample.as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        words(&file()["components"]["schemas"][name]["required"]),
        has,
        "what of {name} is always there"
    );
}

/// The same for what we take: the same fields are needed, and no others are taken.
fn takes<T: Serialize + DeserializeOwned>(name: &str, sample: &T) {
    let sample = serde_json::to_value(sample).unwrap();
    has_fields(name, &sample);
    let parses = |value: &Value| serde_json::from_value::<T>(value.clone()).is_ok();
    assert!(parses(&sample), "{name}");
    let required = words(&file()["components"]["schemas"][name]["required"]);
    for field in sample.as_object().unwrap().keys() {
        let mut without = sample.clone();
        without.as_object_mut().unwrap().remove(field);
        assert_eq!(parses(&without), !required.contains(field), "{name} without {field}");
    }
    let mut more = sample.clone();
    more["surely_unknown"] = json!(1);
    assert!(!parses(&more), "{name} with an unknown field");
}

fn limits() -> Limits {
    Limits {
        memory: Some(1 << 20),
        pids: Some(1),
        cpu: Some(CpuLimit { quota_us: 1000, period_us: 1000 }),
        cpu_weight: Some(1),
    }
}

#[test]
fn documents_we_take_are_those_of_the_file() {
    let process = Process {
        args: vec!["a".into()],
        env: vec![],
        cwd: "/".into(),
        user: Some("u".into()),
        streams: Streams::default(),
    };
    let ids = IdRange { inside: 0, outside: 1, count: 1 };
    let volume = VolumeMount { volume: 0, destination: "/d".into(), read_only: true, cache: Cache::Always };
    let container = Container {
        process: process.clone(),
        root: Root::default(),
        mounts: vec![volume.clone()],
        hostname: Some("h".into()),
        limits: limits(),
        uid_map: IdMap(vec![ids]),
        gid_map: IdMap(vec![ids]),
    };
    takes("Config", &Config { container: Some(container.clone()), ..Config::default() });
    takes("Machine", &Machine::default());
    takes("Boot", &Boot { log_level: Some(LogLevel::Info), ..Boot::default() });
    takes("Jail", &Jail::default());
    let disk = Disk {
        path: "d".into(),
        read_only: true,
        id: "i".into(),
        bandwidth: Some(1),
        ops: Some(1),
        mount: Some("/m".into()),
    };
    takes("Disk", &disk);
    let mount = Mount {
        source: "s".into(),
        destination: "/d".into(),
        read_only: true,
        set_id: true,
        cache: Cache::None,
        uid_map: IdMap(vec![ids]),
        gid_map: IdMap(vec![ids]),
    };
    takes("Mount", &mount);
    takes("IdRange", &ids);
    takes("Network", &Network::default());
    let interface = Interface {
        netns: Some("/n".into()),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: Some(1500),
        egress: Some(Egress::Public),
        rx_bandwidth: Some(1),
        tx_bandwidth: Some(1),
        ..Interface::new(Host::Tap("t".into()))
    };
    takes("NetworkInterface", &interface);
    takes("Passt", &Passt::default());
    takes("Publish", &Publish { address: None, host: 1, guest: 1, protocol: Transport::Udp });
    let rule: Rule = serde_json::from_value(json!({
        "action": "deny", "to": "10.0.0.0/8", "protocol": "tcp", "ports": "1-2"
    }))
    .unwrap();
    takes("EgressRule", &rule);
    takes("EgressPolicy", &Policy { rules: vec![rule], default: Action::Deny });
    takes("VolumeMount", &volume);
    takes("Container", &container);
    takes("Process", &process);
    takes("Root", &Root { cache: Cache::None, ..Root::default() });
    takes("Limits", &limits());
    takes("CpuLimit", &CpuLimit { quota_us: 1000, period_us: 1000 });
    takes("Shutdown", &Shutdown::default());
    takes("Signal", &Signal { signal: 1 });
    takes("Resize", &Resize { rows: 1, cols: 1 });
    takes("BalloonTarget", &BalloonTarget { target: 4096 });
    takes("DiskLimits", &DiskLimits { bandwidth: Some(1), ops: Some(1) });
    takes("RandomLimits", &RandomLimits::default());
    takes("LogLevels", &LogLevels { guest: Some(LogLevel::Info), vmm: Some(LogLevel::Warn) });
    // Documents of which there is one of several.
    let one_of = |name: &str| -> BTreeSet<String> {
        let schema = &file()["components"]["schemas"][name];
        schema["oneOf"].as_vec().unwrap().iter().flat_map(|one| keys(&one["properties"])).collect()
    };
    let names = |values: &[Value]| -> BTreeSet<String> {
        values.iter().flat_map(|value| value.as_object().unwrap().keys().cloned()).collect()
    };
    let images =
        [json!(Image::File("a".into())), json!(Image::Rootfs("a".into())), json!(Image::Shared("a".into()))];
    assert_eq!(one_of("Image"), names(&images));
    let hosts = [
        json!(Host::Tap("t".into())),
        json!(Host::TapDescriptor(3)),
        json!(Host::Stream("s".into())),
        json!(Host::Passt(Passt::default())),
    ];
    assert_eq!(one_of("NetworkHost"), names(&hosts));
    let (pipes, tty) = (json!(Streams::default()), json!(Streams::Tty { port: 0, rows: 1, cols: 1 }));
    has_fields("Pipes", &pipes["pipes"]);
    has_fields("Tty", &tty["tty"]);
    assert_eq!(one_of("Streams"), names(&[pipes, tty]));
    let statuses = [json!(ExitStatus::Code(0)), json!(ExitStatus::Signal(0))];
    assert_eq!(one_of("ExitStatus"), names(&statuses));
    assert_eq!(one_of("ContainerState"), names(&[json!(ContainerState::Stopped(ExitStatus::Code(0)))]));
}

#[test]
fn documents_we_send_are_those_of_the_file() {
    let fault = json!(Fault { fault_message: "m".into(), errno: Some(1) });
    has_fields("Fault", &fault);
    let instance = Instance {
        name: None,
        state: State::Running,
        version: "1".into(),
        pid: 1,
        vmm_pid: None,
        uptime_ms: None,
        cpus: 1,
        memory: 1,
        image: None,
        args: vec![],
    };
    tells("Instance", &instance);
    tells("Ended", &Ended { code: 0, message: None });
    tells("Started", &Started { process: 1, pid: 1 });
    let status =
        ContainerStatus { container: "c".into(), state: ContainerState::Created, tasks: 0, memory: 0 };
    tells("ContainerStatus", &status);
    let stats = Stats {
        state: State::Running,
        uptime_ms: 0,
        cpu_us: 0,
        memory: Memory::default(),
        exits: Exits::default(),
        balloon: BalloonSize::default(),
        devices: Default::default(),
        interfaces: vec![],
        guest: None,
    };
    tells("Stats", &stats);
    tells("Memory", &Memory::default());
    tells("Exits", &Exits::default());
    tells("BalloonSize", &BalloonSize::default());
    has_fields("GuestStats", &json!(GuestStats::default()));
    tells("Phase", &Phase { name: "p".into(), at_ns: 0 });
    tells("SyscallCount", &SyscallCount { nr: 0, count: 0 });
}

#[test]
fn words_of_the_file_are_those_of_the_code() {
    let file = file();
    let states: BTreeSet<_> = ALWAYS.iter().map(|state| state.name().to_owned()).collect();
    assert_eq!(words(&file["components"]["schemas"]["State"]["enum"]), states);
    for state in ALWAYS {
        assert_eq!(json!(state), json!(state.name()));
    }
    let levels = &file["components"]["schemas"]["Boot"]["properties"]["log_level"]["enum"];
    for level in words(levels) {
        assert!(serde_json::from_value::<LogLevel>(json!(level)).is_ok(), "{level}");
    }
}

#[test]
fn examples_in_the_documentation_make_sense() {
    let text = include_str!("../../../docs/api.md");
    let mut found = 0;
    for block in text.split("```json\n").skip(1) {
        let block = block.split("```").next().unwrap();
        serde_json::from_str::<Config>(block).unwrap_or_else(|e| panic!("{e}: {block}")).check().unwrap();
        found += 1;
    }
    assert!(found > 0);
}
