//! Keeps the sections of the library from which `cargo pgrx` reads the extension's SQL. cargo-pgrx itself would do this with flags
//! for every crate. Each crate would then be compiled once for the tests and once more for the library, so the scripts turn
//! that off.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system != "macos") {
        println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    }
}
