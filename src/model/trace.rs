//! The name of a trace (W3C Trace Context): all that belongs to one call, here and in other services.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::{Malformed, from_hex, malformed, serde_as_text, write_hex};

/// 32 hex digits, not all of them 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// `None`: all bytes are 0, which is no trace.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }
}

impl FromStr for TraceId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let id = from_hex(text).and_then(Self::new);
        id.map_or_else(|| malformed(text, "a trace id, 32 lower-case hex digits"), Ok)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

serde_as_text!(TraceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_reads_as_it_is_written() {
        let text = "4bf92f3577b34da6a3ce929d0e0e4736";
        let id: TraceId = text.parse().unwrap();
        assert_eq!((id.to_string().as_str(), serde_json::to_value(id).unwrap()), (text, text.into()));
        for wrong in ["", "0", &"0".repeat(32), &text.to_uppercase(), &text[1..]] {
            assert!(wrong.parse::<TraceId>().is_err(), "{wrong}");
        }
    }
}
