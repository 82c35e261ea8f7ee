//! probe
pgrx::pg_module_magic!(name, version);
#[cfg(test)]
mod t { #[test] fn a() { assert_eq!(1,1);} }
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}
    pub fn postgresql_conf_options() -> Vec<&'static str> { vec![] }
}
