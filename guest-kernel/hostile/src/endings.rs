//! Attacks that end the machine, or try to keep it from ending.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ringfence_hal::{console, cpu};

use crate::device::{self, Device, Packet, VSOCK, pause};

use crate::raw;

const POWER_PORT: u16 = 0x600;
const CONTROL: u32 = 1024;

/// Does what `name` says; `config` is the document the VMM gave us.
pub fn one(name: &str, config: &str) -> ! {
    match name {
        "nothing" => {}
        "triple-fault" => raw::triple_fault(),
        "no-page-tables" => raw::lose_page_tables(),
        "power-unknown" => raw::out32(POWER_PORT, 0xdead_beef),
        "power-narrow" => {
            raw::out8(POWER_PORT, 1);
            raw::out16(POWER_PORT, 1);
        }
        "power-off" => raw::out32(POWER_PORT, 0),
        "reset" => raw::out8(0x64, 0xfe),
        "hang" => raw::hang(),
        "spin" => loop {
            cpu::relax();
        },
        "spin-exits" => {
            cpu::start_secondaries();
            loop {
                raw::out8(0x80, 0);
            }
        }
        "serial-flood" => {
            let line = alloc::vec![b'x'; 4096];
            loop {
                raw::out_string(0x3f8, &line);
            }
        }
        "serial-terminal" => {
            // What would be obeyed by a terminal it is shown on.
            console::write("\x1b]0;owned\x07\x1b[2J\x1bP$q\x1b\\\u{9b}31m\x00\x07evil\n");
            raw::out32(POWER_PORT, 1);
        }
        "panic" => panic!("as asked"),
        "stdout-flood" => flood(config),
        _ => control(name),
    }
    pause(3_600_000_000_000);
    raw::hang()
}

/// A connection to `port` of the host.
fn connect(port: u32) -> Device {
    let found = device::find().into_iter().find(|device| device.id == VSOCK);
    let mut vsock = found.expect("a vsock device");
    vsock.set_up().expect("a vsock device that works");
    let answer = vsock.converse(&Packet { op: Packet::REQUEST, dst_port: port, ..Packet::default() });
    assert!(answer.is_ok_and(|answer| answer.op == Packet::RESPONSE), "nobody listens on port {port}");
    vsock
}

/// Sends bytes on the connection to `port`, as fast as the device takes them, whatever its credit. False if it gave up.
fn send(vsock: &mut Device, port: u32, bytes: &[u8]) -> bool {
    bytes.chunks(0x4000).all(|chunk| {
        let packet = Packet { op: Packet::RW, dst_port: port, len: chunk.len() as u32, ..Packet::default() };
        vsock.buffer.write(Packet::LEN, chunk);
        vsock.send(&packet, chunk.len() as u32).is_ok()
    })
}

/// A frame of the control connection.
fn frame(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text].concat()
}

fn control(name: &str) {
    let hello = frame(br#"{"type":"hello","version":2}"#);
    let frames: Vec<u8> = match name {
        "control-length" => u32::MAX.to_le_bytes().into(),
        "control-huge" => [hello, frame(&alloc::vec![b' '; 1 << 20])].concat(),
        "control-garbage" => frame(b"\xff\xfe\x00garbage"),
        "control-nested" => frame(&alloc::vec![b'['; 100_000]),
        "control-unknown-field" => frame(br#"{"type":"hello","version":2,"more":1}"#),
        "control-unknown-type" => [hello, frame(br#"{"type":"format_disk"}"#)].concat(),
        "control-version" => frame(br#"{"type":"hello","version":4294967295}"#),
        "control-no-hello" => frame(br#"{"type":"started"}"#),
        "control-replies" => {
            let reply = frame(br#"{"type":"reply","id":18446744073709551615,"reply":{"ok":null}}"#);
            [hello, reply.repeat(2000)].concat()
        }
        "control-exit-twice" => {
            let exited = frame(br#"{"type":"exited","status":{"code":7},"stats":null}"#);
            [hello, exited.repeat(2)].concat()
        }
        "control-start-failed" => {
            let long: String = "\\u001b[31m".repeat(5000);
            [
                hello,
                frame(
                    format!(r#"{{"type":"start_failed","errno":4294967295,"message":"{long}"}}"#).as_bytes(),
                ),
            ]
            .concat()
        }
        // A frame that never ends, a byte at a time, while the host waits.
        "control-slow" => {
            let mut vsock = connect(CONTROL);
            for byte in frame(&alloc::vec![b' '; 4096]) {
                send(&mut vsock, CONTROL, &[byte]);
                pause(500_000_000);
            }
            return;
        }
        "control-flood" => {
            let mut vsock = connect(CONTROL);
            let stats = [hello, frame(br#"{"type":"started"}"#).repeat(100)].concat();
            while send(&mut vsock, CONTROL, &stats) {}
            return;
        }
        _ => panic!("there is no attack {name}"),
    };
    let mut vsock = connect(CONTROL);
    send(&mut vsock, CONTROL, &frames);
    pause(2_000_000_000);
    raw::out32(POWER_PORT, 0);
}

/// Fills the stream that is the program's standard output, whatever the host can take.
fn flood(config: &str) {
    let port = device::stdout_port(config).expect("a port for standard output");
    let mut vsock = connect(port);
    let text = alloc::vec![b'y'; 0x1_0000];
    while send(&mut vsock, port, &text) {}
}
