//! The claims of a client about itself. Whatever the settings contain, the claims stay within their limits, stay on one
//! line, read in one direction, and are not invented.
//!
//! An input consists of the values of `request.headers`, `app.client_ip`, `app.user_agent`, `app.request_id`, the
//! connection's address and `application_name`, separated by NULs, which no setting can contain. An empty value means that
//! the setting is not set.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use vault_core::audit::claims::Claims;
use vault_core::audit::record::{MAX_APPLICATION_NAME, MAX_IP_ADDRESS, MAX_REQUEST_ID, MAX_USER_AGENT, sanitized};

fuzz_target!(|input: &[u8]| {
    let mut values = input.split(|&byte| byte == 0);
    let mut value = || values.next().unwrap_or_default();
    let (headers, ip, agent, request) = (value(), value(), value(), value());
    let connection = str::from_utf8(value()).ok().filter(|address| !address.is_empty());
    let application = value();

    let setting = |name: &std::ffi::CStr| {
        let value = match name.to_bytes() {
            b"request.headers" => headers,
            b"app.client_ip" => ip,
            b"app.user_agent" => agent,
            b"app.request_id" => request,
            b"application_name" => application,
            other => panic!("an undocumented setting: {other:?}"),
        };
        (!value.is_empty()).then(|| value.to_vec())
    };
    let claims = Claims::gather(setting, || connection.map(str::to_owned));

    let json: Option<Value> = serde_json::from_slice(headers).ok();
    let header = |name: &str| json.as_ref()?.as_object()?.get(name)?.as_str();
    check(claims.application_name.as_deref(), MAX_APPLICATION_NAME, application, None);
    check(claims.user_agent.as_deref(), MAX_USER_AGENT, agent, header("user-agent").map(str::trim));
    check(claims.request_id.as_deref(), MAX_REQUEST_ID, request, header("x-request-id").map(str::trim));
    let forwarded = header("x-forwarded-for").and_then(|list| list.trim().split(',').next()).map(str::trim);
    let real = header("x-real-ip").map(str::trim);
    let address = [forwarded, real, connection].into_iter().flatten().find(|address| !address.is_empty());
    check(claims.ip_address.as_deref(), MAX_IP_ADDRESS, ip, address);
});

/// Checks that the claim is the application's setting or else the other source, with unsafe characters escaped and cut
/// to its limit.
fn check(claim: Option<&str>, max: usize, set: &[u8], otherwise: Option<&str>) {
    let source = if set.is_empty() { otherwise.unwrap_or_default().as_bytes() } else { set };
    let Some(claim) = claim else {
        assert!(source.is_empty(), "the claim was lost");
        return;
    };
    assert!((1..=max).contains(&claim.len()));
    assert!(!claim.chars().any(is_unsafe_to_show));
    assert_eq!(sanitized(claim.as_bytes(), max).as_deref(), Some(claim), "sanitizing the claim again changed it");

    let text = String::from_utf8_lossy(source);
    let expected: String = text.chars().take(max + 1).map(escaped).collect();
    let rest = expected.strip_prefix(claim).expect("the claim is a prefix of its source");
    if !rest.is_empty() {
        // An escape such as \u{10ffff} has up to ten bytes.
        assert!(claim.len() + 10 > max, "the claim was cut too early");
    }
}

fn escaped(character: char) -> String {
    if is_unsafe_to_show(character) { character.escape_unicode().to_string() } else { character.into() }
}

/// Control characters, line and paragraph separators, and characters with Unicode's property Bidi_Control.
fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
