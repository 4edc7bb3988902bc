//! Whether a JSON-RPC message is an error, found while it streams past, whatever its size.

/// Bytes of the error member that are kept.
const KEEP: usize = 8 * 1024;

/// Looks for the member `error` of the outermost object.
#[derive(Debug, Default)]
pub struct ErrorScanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
    expect_name: bool,
    name: Vec<u8>,
    capturing: bool,
    value: Vec<u8>,
    found: bool,
}

impl ErrorScanner {
    /// Takes more of the message.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.found {
                return;
            }
            self.step(byte);
        }
    }

    /// Code and message of the error; `None` when the message is none.
    pub fn error(&self) -> Option<(i64, String)> {
        if !self.found {
            return None;
        }
        let value: serde_json::Value = serde_json::from_slice(&self.value).unwrap_or_default();
        let code = value.get("code").and_then(serde_json::Value::as_i64).unwrap_or(0);
        let message = value.get("message").and_then(serde_json::Value::as_str).unwrap_or_default();
        Some((code, message.to_owned()))
    }

    fn step(&mut self, byte: u8) {
        if self.capturing && self.value.len() < KEEP {
            self.value.push(byte);
        }
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ if self.expect_name && self.depth == 1 && self.name.len() < 8 => self.name.push(byte),
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.expect_name && self.depth == 1 {
                    self.name.clear();
                }
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.expect_name = byte == b'{' && self.depth == 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 && self.capturing {
                    // The closing brace of the message itself.
                    self.value.pop();
                    self.found = true;
                }
            }
            b':' if self.depth == 1 && self.expect_name => {
                self.expect_name = false;
                self.capturing = self.name == b"error";
            }
            b',' if self.depth == 1 => {
                if self.capturing {
                    self.value.pop();
                    self.found = true;
                }
                self.expect_name = true;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str, cut: usize) -> Option<(i64, String)> {
        let mut scanner = ErrorScanner::default();
        for chunk in text.as_bytes().chunks(cut) {
            scanner.feed(chunk);
        }
        scanner.error()
    }

    #[test]
    fn an_error_is_found_wherever_it_stands() {
        let error = Some((-32000, "no, \"really\"".to_owned()));
        let long = format!(
            r#"{{"jsonrpc":"2.0","x":[{}{{"error":1}}],"error":{{"code":-32000,"message":"no, \"really\""}},"id":1}}"#,
            "\"y\",".repeat(100_000)
        );
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no, \"really\""}}"#, &error),
            (r#"{"error" : {"code":-32000,"message":"no, \"really\""} , "id":1}"#, &error),
            (long.as_str(), &error),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"error":{"code":1}}}"#, &None),
            (r#"{"x":"error","result":"\"error\":"}"#, &None),
            (r#"{"id":1,"result":{"isError":true}}"#, &None),
            ("not json", &None),
        ] {
            for cut in [1, 7, 1 << 20] {
                assert_eq!(&scan(text, cut), expected);
            }
        }
    }
}
