//! Keeps the sections of the library from which `cargo pgrx` reads the extension's SQL. cargo-pgrx would do it by flags for
//! every crate, which then would have to be compiled once for the tests and once more for the library; the scripts turn that off.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system != "macos") {
        println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    }
}
