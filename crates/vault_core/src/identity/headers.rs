//! The token that comes with an HTTP request, as PostgREST hands its headers on.

use serde_json::Value;

/// The token of `Authorization: Bearer …` (RFC 6750, section 2.1) in one JSON object with lower-case names. None where there is
/// none, or where it is something else.
pub fn bearer(headers: &[u8]) -> Option<String> {
    let headers = serde_json::from_slice::<Value>(headers).ok()?;
    let (scheme, token) = headers.get("authorization")?.as_str()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_is_taken() {
        let of = |headers: &str| bearer(headers.as_bytes());
        assert_eq!(of(r#"{"authorization":"Bearer a.b.c","x":"y"}"#).as_deref(), Some("a.b.c"));
        assert_eq!(of(r#"{"authorization":"bearer  a.b.c "}"#).as_deref(), Some("a.b.c"));
        for none in [
            r#"{"authorization":"Basic eA=="}"#,
            r#"{"authorization":"Bearer "}"#,
            r#"{"authorization":1}"#,
            "{}",
            "[",
            "",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
