//! JSON as JavaScript's `JSON.stringify` writes it.
//!
//! - No blanks. Strings escape `"`, `\` and control characters: `\b \t \n \f \r`, the others as `\u00XX` in lower case.
//!   Everything else stays as it is. JavaScript also escapes lone surrogates, which Rust's strings cannot hold.
//! - JavaScript has only IEEE 754 doubles, so each number is the nearest one, printed in the shortest form that reads back
//!   (ECMA-262, Number::toString): `1.0` is `1`, `1e21` is `1e+21`, `-0.0` is `0`, and `9007199254740993` is
//!   `9007199254740992`, which is also what a client would make of it.
//! - Members stand in the order of the `Value`. In this workspace serde_json sorts them by their bytes, since its feature
//!   `preserve_order` is off; jsonb has dropped the original order anyway. JavaScript keeps the order of insertion, apart
//!   from names such as `7`, which come first. No reader of JSON may depend on it.

use std::io;

use serde::Serialize;
use serde_json::{Serializer, Value, ser::Formatter};
use zeroize::Zeroizing;

/// Renders `value`. The text is written once into memory of its final length, so that growing leaves no copies behind.
pub fn stringify(value: &Value) -> Zeroizing<String> {
    let mut length = Length(0);
    write(value, &mut length);
    let mut text = Vec::with_capacity(length.0);
    write(value, &mut text);
    // The error of `from_utf8` holds the text, so `expect` must not see it.
    Zeroizing::new(String::from_utf8(text).map_err(drop).expect("serde_json writes UTF-8"))
}

fn write(value: &Value, target: impl io::Write) {
    let written = value.serialize(&mut Serializer::with_formatter(target, JavaScript));
    written.map_err(drop).expect("a Value has text as names, and memory takes every byte");
}

/// Compact, like serde_json's own, except for numbers.
struct JavaScript;

impl Formatter for JavaScript {
    fn write_i64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        self.write_f64(writer, value as f64)
    }

    fn write_u64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        self.write_f64(writer, value as f64)
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(ryu_js::Buffer::new().format_finite(value).as_bytes())
    }
}

/// Counts what is written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewrite(json: &str) -> String {
        let value: Value = serde_json::from_str(json).expect("JSON");
        stringify(&value).to_string()
    }

    /// Each pair was computed by Node.js: `JSON.stringify(JSON.parse(json))`.
    #[test]
    fn numbers_are_those_of_javascript() {
        for (json, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("1.0", "1"),
            ("-1.50", "-1.5"),
            ("100", "100"),
            ("1e20", "100000000000000000000"),
            ("100000000000000000000", "100000000000000000000"),
            ("999999999999999999999", "1e+21"),
            ("1e21", "1e+21"),
            ("1E+21", "1e+21"),
            ("-1.5e300", "-1.5e+300"),
            ("0.000001", "0.000001"),
            ("1e-7", "1e-7"),
            ("0.1", "0.1"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("123456789.125", "123456789.125"),
            ("9007199254740991", "9007199254740991"),
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740993", "-9007199254740992"),
            ("18446744073709551615", "18446744073709552000"),
            ("-9223372036854775808", "-9223372036854776000"),
            ("5e-324", "5e-324"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            // serde_json reads these as a neighbour without its feature float_roundtrip.
            ("122.416294033786585", "122.41629403378658"),
            ("31.245270191439438", "31.245270191439438"),
        ] {
            assert_eq!(rewrite(json), expected, "{json}");
        }
    }

    /// Computed by Node.js, too.
    #[test]
    fn strings_are_escaped_as_javascript_does() {
        let all_controls: String = (0..0x20).map(char::from).collect();
        assert_eq!(
            *stringify(&Value::String(all_controls)),
            r#""\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f""#
        );
        for (json, expected) in [
            (r#""\"\\\/""#, r#""\"\\/""#),
            (r#""\u001F\u007f\u0080""#, "\"\\u001f\u{7f}\u{80}\""),
            (r#""\u2028\u2029\u00fc\ud83d\ude00""#, "\"\u{2028}\u{2029}ü😀\""),
            (r#""<script>&'""#, r#""<script>&'""#),
        ] {
            assert_eq!(rewrite(json), expected, "{json}");
        }
    }

    #[test]
    fn values_are_compact_and_sorted() {
        assert_eq!(rewrite(" [ ] "), "[]");
        assert_eq!(rewrite(" { } "), "{}");
        assert_eq!(rewrite("[ true, false , null ]"), "[true,false,null]");
        assert_eq!(rewrite(r#"{ "b": ["x", null], "a" : {"": 1.0} }"#), r#"{"a":{"":1},"b":["x",null]}"#);
        assert_eq!(rewrite(r#"{"a":1,"a":2}"#), r#"{"a":2}"#);
    }

    #[test]
    fn the_text_has_memory_of_its_own_length() {
        let text = stringify(&Value::from(vec!["a value"; 1000]));
        assert_eq!(text.len(), text.capacity());
    }

    proptest! {
        #[test]
        fn a_text_reads_back(text: String, number: f64, whole in -(1i64 << 53)..=1 << 53) {
            let value = Value::from(vec![Value::from(text), Value::from(number)]);
            prop_assert_eq!(&serde_json::from_str::<Value>(&stringify(&value)).expect("JSON")[0], &value[0]);
            if number.is_finite() {
                let read: f64 = stringify(&Value::from(number)).parse().expect("a number");
                prop_assert_eq!(read, number);
            }
            let written = stringify(&Value::from(whole));
            prop_assert_eq!(&*written, &whole.to_string());
        }
    }
}
