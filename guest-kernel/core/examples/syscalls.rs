//! Prints the system call table, a call a line: number, name, full, partial or missing, arguments, note; separated by
//! tabs. `cargo xtask syscalls` makes `docs/syscalls.md` of it.

use ringfence_sentry::syscall::{
    ArgKind, Level,
    kinds::{Count, Layout},
    known,
    table::TABLE,
};

fn main() {
    for call in known::ALL {
        let entry = TABLE.get(call.number).copied().flatten();
        let level = match entry.map(|entry| entry.level) {
            Some(Level::Full) => "full",
            Some(Level::Partial) => "partial",
            None => "missing",
        };
        let names = entry.map_or(&[][..], |entry| entry.args);
        let arguments: Vec<String> = known::kinds(call.number)
            .enumerate()
            .map(|(i, kind)| match names.get(i) {
                Some((name, _)) if kind_text(kind) == *name => kind_text(kind),
                Some((name, _)) => format!("{name}: {}", kind_text(kind)),
                None => kind_text(kind),
            })
            .collect();
        let note = entry.map_or("", |entry| entry.note);
        println!("{}\t{}\t{level}\t{}\t{note}", call.number, call.name, arguments.join(", "));
    }
}

fn kind_text(kind: ArgKind) -> String {
    let memory = |way: &str, layout: Layout, count: Count| {
        let layout =
            format!("{layout:?}").to_lowercase().replace("iovecin", "iovec").replace("iovecout", "iovec");
        let many = match count {
            Count::One => String::new(),
            Count::Fixed(n) => format!("[{n}]"),
            _ => "[]".to_owned(),
        };
        let layout = match layout.strip_prefix("opaque(").and_then(|rest| rest.strip_suffix(')')) {
            Some(size) => format!("{size} bytes"),
            None => layout,
        };
        format!("{way} {layout}{many}")
    };
    match kind {
        ArgKind::Flags(names) | ArgKind::Choice(names) => names.what.to_owned(),
        ArgKind::In(layout, count) => memory("in", layout, count),
        ArgKind::Out(layout, count) => memory("out", layout, count),
        ArgKind::InOut(layout, count) => memory("in out", layout, count),
        ArgKind::Str => "string".to_owned(),
        ArgKind::StrVec => "strings".to_owned(),
        simple => format!("{simple:?}").to_lowercase(),
    }
}
