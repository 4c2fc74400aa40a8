//! Hands the program its linker script, for the bare target only.

fn main() {
    println!("cargo::rerun-if-changed=../image/kernel.ld");
    println!("cargo::rerun-if-changed=../image/startup.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        println!("cargo::rustc-link-arg-bins=-T{here}/../image/kernel.ld");
        println!("cargo::rustc-link-arg-bins=-L{here}/../image");
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
