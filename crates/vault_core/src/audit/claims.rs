//! What the client says about itself. Claims, not facts: the application or its proxy sets them. Pure: no server, no unsafe.

use std::ffi::CStr;

use serde_json::Value;

use super::record::{MAX_APPLICATION_NAME, MAX_IP_ADDRESS, MAX_REQUEST_ID, MAX_USER_AGENT, sanitized};

/// Fit for the trail: bounded, without control characters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    pub application_name: Option<String>,
}

impl Claims {
    /// From the settings `application_name`, `app.client_ip`, `app.user_agent` and `app.request_id`; where those are not set, from PostgREST's
    /// `request.headers`; the address falls back to the connection's.
    pub fn gather(
        setting: impl Fn(&CStr) -> Option<Vec<u8>>,
        connection_address: impl FnOnce() -> Option<String>,
    ) -> Self {
        let from_setting = |name: &CStr, max: usize| sanitized(&setting(name)?, max);
        let mut claims = Self {
            ip_address: from_setting(c"app.client_ip", MAX_IP_ADDRESS),
            user_agent: from_setting(c"app.user_agent", MAX_USER_AGENT),
            request_id: from_setting(c"app.request_id", MAX_REQUEST_ID),
            application_name: from_setting(c"application_name", MAX_APPLICATION_NAME),
        };
        if let Some(headers) = setting(c"request.headers").filter(|headers| !headers.is_empty()) {
            let from_headers = parse_headers(&headers);
            claims.ip_address = claims.ip_address.or(from_headers.ip_address);
            claims.user_agent = claims.user_agent.or(from_headers.user_agent);
            claims.request_id = claims.request_id.or(from_headers.request_id);
        }
        claims.ip_address = claims.ip_address.or_else(|| sanitized(connection_address()?.as_bytes(), MAX_IP_ADDRESS));
        claims
    }
}

/// PostgREST gives the request's headers as one JSON object with lower-case names. Anything else is no claim at all.
fn parse_headers(json: &[u8]) -> Claims {
    let Ok(Value::Object(headers)) = serde_json::from_slice(json) else { return Claims::default() };
    let header = |name: &str| headers.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let forwarded = header("x-forwarded-for").and_then(|list| list.split(',').next()).map(str::trim);
    let address = forwarded.filter(|text| !text.is_empty()).or_else(|| header("x-real-ip"));
    Claims {
        ip_address: address.and_then(|text| sanitized(text.as_bytes(), MAX_IP_ADDRESS)),
        user_agent: header("user-agent").and_then(|text| sanitized(text.as_bytes(), MAX_USER_AGENT)),
        request_id: header("x-request-id").and_then(|text| sanitized(text.as_bytes(), MAX_REQUEST_ID)),
        application_name: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_forwarded_address_wins() {
        let claims = parse_headers(
            br#"{"x-forwarded-for":" 192.0.2.7 , 198.51.100.1","x-real-ip":"203.0.113.9","user-agent":"curl/8"}"#,
        );
        assert_eq!(claims.ip_address.as_deref(), Some("192.0.2.7"));
        assert_eq!(claims.user_agent.as_deref(), Some("curl/8"));
        assert_eq!(claims.request_id, None);
    }

    #[test]
    fn the_real_ip_stands_in_for_an_empty_forward() {
        let claims = parse_headers(br#"{"x-forwarded-for":" , x","x-real-ip":"203.0.113.9"}"#);
        assert_eq!(claims.ip_address.as_deref(), Some("203.0.113.9"));
    }

    #[test]
    fn what_is_no_object_of_texts_is_no_claim() {
        for json in ["", "[]", "7", "{\"user-agent\":7}", "{", "null"] {
            assert_eq!(parse_headers(json.as_bytes()), Claims::default(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_header_bytes_are_read_or_ignored(json in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_headers(&json);
        }

        #[test]
        fn any_header_value_comes_out_bounded(agent in "\\PC{0,400}") {
            let json = serde_json::json!({"user-agent": agent}).to_string();
            prop_assert!(parse_headers(json.as_bytes()).user_agent.is_none_or(|text| text.len() <= MAX_USER_AGENT));
        }
    }
}
