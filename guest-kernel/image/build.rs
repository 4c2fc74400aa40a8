//! Hands the linker script to the linker, for the bare target only.

fn main() {
    println!("cargo::rerun-if-changed=kernel.ld");
    println!("cargo::rerun-if-changed=startup.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        println!("cargo::rustc-link-arg-bins=-T{here}/kernel.ld");
        println!("cargo::rustc-link-arg-bins=-L{here}");
        // Segments need no page alignment in the file beyond their own.
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
