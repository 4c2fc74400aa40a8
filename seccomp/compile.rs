//! The compiler of filters: a thread's rules to a program of the kernel's classic BPF. A part of the build script.
//!
//! [seccompiler] applies them, but does not compile them: its programs are thrice as long, and one is paid for in every start: the kernel
//! translates it to machine code (a thousand instructions for each of its own), and tries a filter with every number
//! there is, 900 of them, to learn which calls need no more filtering. It gives up where a program reads what
//! it cannot know, so ours begin with that: they are run at every call, which takes some ten instructions.
//!
//! ```text
//!   read something; not x86-64? kill; read the number
//!   first call? allow or its block · second call? … · trap
//!   a block: read the argument; the first rule's value? allow · the second one's? … · trap
//! ```
//!
//! [seccompiler]: https://crates.io/crates/seccompiler

use std::collections::BTreeMap;

use serde_json::Value;

const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
const KILL: u32 = 0x8000_0000;

/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xc000_003e;

// Of `struct seccomp_data`: where they are.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const INSTRUCTION_POINTER: u32 = 8;
const ARGUMENTS: u32 = 16;

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_ALU | BPF_AND | BPF_K`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// An instruction as the kernel has it: code, jumps if true and false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// A place in the program that jumps lead to.
type Label = usize;

/// Code, operand, and of a comparison the two ways on.
type Draft = (u16, u32, Option<(Label, Label)>);

/// A program under construction.
#[derive(Default)]
struct Program {
    instructions: Vec<Draft>,
    labels: Vec<Option<usize>>,
}

impl Program {
    fn label(&mut self) -> Label {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn here(&mut self, label: Label) {
        self.labels[label] = Some(self.instructions.len());
    }

    fn add(&mut self, code: u16, operand: u32) {
        self.instructions.push((code, operand, None));
    }

    fn if_equal(&mut self, operand: u32, then: Label, other: Label) {
        self.instructions.push((EQUAL, operand, Some((then, other))));
    }

    fn finish(self) -> Vec<Instruction> {
        let way = |from: usize, to: Label| {
            let to = self.labels[to].expect("a label that is nowhere");
            u8::try_from(to - from - 1).expect("the program is too long for its jumps")
        };
        let instructions = self.instructions.iter().enumerate();
        instructions
            .map(|(at, &(code, operand, ways))| match ways {
                Some((then, other)) => (code, way(at, then), way(at, other), operand),
                None => (code, 0, 0, operand),
            })
            .collect()
    }
}

/// A comparison of 32 bits of an argument.
struct Check {
    offset: u32,
    mask: u32,
    value: u32,
}

/// The program for a list of rules. `number` tells a call's number. Panics with what is wrong.
pub fn compile(rules: &[Value], number: impl Fn(&str) -> u32) -> Vec<Instruction> {
    let mut program = Program::default();
    let (allow, trap, ours) = (program.label(), program.label(), program.label());
    let kill = program.label();
    program.add(LOAD, INSTRUCTION_POINTER);
    program.add(LOAD, ARCH);
    program.if_equal(ARCHITECTURE, ours, kill);
    program.here(kill);
    program.add(RETURN, KILL);
    program.here(ours);
    program.add(LOAD, NUMBER);
    // In the order of the profile: the first is found the soonest.
    let (mut order, mut calls) = (Vec::new(), BTreeMap::<&str, Vec<Vec<Check>>>::new());
    for rule in rules {
        let call = rule["syscall"].as_str().expect("a rule without a call");
        if !calls.contains_key(call) {
            order.push(call);
        }
        calls.entry(call).or_default().push(checks(rule));
    }
    let mut blocks = Vec::new();
    for call in order {
        let next = program.label();
        let unconditional = calls[call].iter().any(Vec::is_empty);
        let then = if unconditional { allow } else { program.label() };
        program.if_equal(number(call), then, next);
        program.here(next);
        if !unconditional {
            blocks.push((then, &calls[call]));
        }
    }
    program.add(RETURN, TRAP);
    for (label, rules) in blocks {
        program.here(label);
        block(&mut program, rules, allow, trap);
    }
    program.here(allow);
    program.add(RETURN, ALLOW);
    program.here(trap);
    program.add(RETURN, TRAP);
    program.finish()
}

/// The rules of one call, each of which allows it.
fn block(program: &mut Program, rules: &[Vec<Check>], allow: Label, trap: Label) {
    // What was read last, where that is still so.
    let mut read = None;
    for (place, rule) in rules.iter().enumerate() {
        let other = if place + 1 == rules.len() { trap } else { program.label() };
        for (place, check) in rule.iter().enumerate() {
            if read != Some((check.offset, u32::MAX)) {
                program.add(LOAD, check.offset);
            }
            if check.mask != u32::MAX {
                program.add(AND, check.mask);
            }
            read = Some((check.offset, check.mask));
            let then = if place + 1 == rule.len() { allow } else { program.label() };
            program.if_equal(check.value, then, other);
            if then != allow {
                program.here(then);
            }
        }
        if rule.len() > 1 {
            read = None; // the next rule is reached from each of the checks
        }
        if other != trap {
            program.here(other);
        }
    }
}

/// What a rule asks of the arguments.
fn checks(rule: &Value) -> Vec<Check> {
    let mut checks = Vec::new();
    for argument in rule["args"].as_array().into_iter().flatten() {
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {argument}"));
        let (value, mask) = match &argument["op"] {
            Value::String(op) if op == "eq" => (number(&argument["val"]), u64::MAX),
            op if op["masked_eq"].is_u64() => (number(&argument["val"]), number(&op["masked_eq"])),
            op => panic!("{op}: only eq and masked_eq are known: {rule}"),
        };
        let index = number(&argument["index"]) as u32;
        assert!(index < 6, "a call has six arguments: {rule}");
        let offset = ARGUMENTS + 8 * index;
        let mut half = |offset, shift: u32| {
            let (value, mask) = ((value >> shift) as u32, (mask >> shift) as u32);
            checks.push(Check { offset, mask, value: value & mask });
        };
        half(offset, 0);
        match argument["type"].as_str() {
            Some("dword") => assert!(value >> 32 == 0, "not a dword: {rule}"),
            Some("qword") => half(offset + 4, 32),
            _ => panic!("an argument is a dword or a qword: {rule}"),
        }
    }
    checks
}
