//! Server-sent events without loss: the stream is cut into frames whose bytes, put together again, are
//! the stream. Comments, ids, retries, empty data, all three line ends and any cut between reads survive.

use bytes::{Buf, Bytes, BytesMut};

/// One event as it came, terminator included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The bytes of the frame.
    pub bytes: Bytes,
}

/// A frame was longer than the bound.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("an SSE frame is longer than {limit} bytes")]
pub struct FrameTooLong {
    /// The bound in bytes.
    pub limit: usize,
}

/// Cuts a stream into frames.
#[derive(Debug)]
pub struct Splitter {
    buffer: BytesMut,
    /// How far `buffer` was looked at.
    seen: usize,
    /// Start of the line that is being looked at.
    line: usize,
    /// The last byte looked at was a CR that ended a line: an LF that follows belongs to it.
    after_cr: bool,
    limit: usize,
}

impl Splitter {
    /// A splitter whose frames have at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), seen: 0, line: 0, after_cr: false, limit }
    }

    /// Takes more of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, when there is one.
    ///
    /// # Errors
    /// When the frame that is being read is longer than the bound.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameTooLong> {
        while let Some(&byte) = self.buffer.get(self.seen) {
            let at = self.seen;
            self.seen += 1;
            match byte {
                b'\n' if self.after_cr => {
                    self.after_cr = false;
                    self.line = self.seen;
                }
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let blank = at == self.line;
                    self.line = self.seen;
                    if blank {
                        return self.cut().map(Some);
                    }
                }
                _ => self.after_cr = false,
            }
        }
        if self.buffer.len() > self.limit {
            return Err(FrameTooLong { limit: self.limit });
        }
        Ok(None)
    }

    /// What is left when the stream has ended: an event without its blank line.
    pub fn rest(&mut self) -> Option<Frame> {
        (!self.buffer.is_empty()).then(|| {
            self.seen = 0;
            self.line = 0;
            Frame { bytes: self.buffer.split().freeze() }
        })
    }

    fn cut(&mut self) -> Result<Frame, FrameTooLong> {
        // A CR that ends the blank line may be followed by its LF in this or a later read. If it is
        // here already it goes with this frame; else it goes with the next, where it means nothing.
        if self.after_cr && self.buffer.get(self.seen) == Some(&b'\n') {
            self.seen += 1;
            self.after_cr = false;
        }
        if self.seen > self.limit {
            return Err(FrameTooLong { limit: self.limit });
        }
        let bytes = self.buffer.split_to(self.seen).freeze();
        self.seen = 0;
        self.line = 0;
        Ok(Frame { bytes })
    }
}

impl Frame {
    /// The event's data: the `data` lines joined with LF; `None` when there is no such line.
    pub fn data(&self) -> Option<Vec<u8>> {
        let mut data: Option<Vec<u8>> = None;
        for line in lines(&self.bytes) {
            if let Some(value) = data_value(line.content) {
                match &mut data {
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                    None => data = Some(value.to_vec()),
                }
            }
        }
        data
    }

    /// True when a line is JSON without a field name: a plain answer that calls itself a stream. Clients
    /// should pass over it, and some read it.
    pub fn has_bare_json(&self) -> bool {
        lines(&self.bytes).any(|line| matches!(line.content.trim_ascii_start().first(), Some(b'{' | b'[')))
    }

    /// The same event with other data: every other line stays, in its place and with its line end.
    pub fn with_data(&self, data: &[u8]) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + data.len());
        let mut written = false;
        for line in lines(&self.bytes) {
            if data_value(line.content).is_none() {
                bytes.extend_from_slice(line.whole);
                continue;
            }
            if written {
                continue;
            }
            written = true;
            if line.whole.starts_with(BOM) {
                bytes.extend_from_slice(BOM);
            }
            // JSON has no raw line ends, so one line holds it.
            bytes.extend_from_slice(b"data: ");
            bytes.extend_from_slice(data);
            bytes.extend_from_slice(if line.end.is_empty() { b"\n" } else { line.end });
        }
        bytes.freeze()
    }

    /// An event with only data.
    pub fn message(data: &str) -> Bytes {
        Bytes::from(format!("event: message\ndata: {data}\n\n"))
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

struct Line<'a> {
    whole: &'a [u8],
    content: &'a [u8],
    end: &'a [u8],
}

/// The lines of a frame. A leading byte order mark is no part of the first line's content.
fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut rest = bytes;
    let mut first = true;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        let (content, mut tail) = rest.split_at(length);
        let end_length = match tail {
            [b'\r', b'\n', ..] => 2,
            [_, ..] => 1,
            [] => 0,
        };
        let (end, after) = tail.split_at(end_length);
        tail.advance(end_length);
        let (whole, _) = rest.split_at(length + end_length);
        rest = after;
        let content = if first { content.strip_prefix(BOM).unwrap_or(content) } else { content };
        first = false;
        Some(Line { whole, content, end })
    })
}

fn data_value(line: &[u8]) -> Option<&[u8]> {
    let value = line.strip_prefix(b"data")?;
    match value {
        [] => Some(value),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new(1 << 20);
        let mut frames = Vec::new();
        for chunk in chunks {
            splitter.push(chunk);
            while let Some(frame) = splitter.next_frame().unwrap() {
                frames.push(frame.bytes.to_vec());
            }
        }
        frames.extend(splitter.rest().map(|frame| frame.bytes.to_vec()));
        frames
    }

    #[test]
    fn frames_end_at_blank_lines_of_any_kind() {
        assert_eq!(split(&[b"data: a\n\ndata: b\n\n"]), [b"data: a\n\n".to_vec(), b"data: b\n\n".to_vec()]);
        assert_eq!(split(&[b"data: a\r\n\r\nx"]), [b"data: a\r\n\r\n".to_vec(), b"x".to_vec()]);
        assert_eq!(split(&[b"data: a\r\rdata: b\r\r"]), [b"data: a\r\r".to_vec(), b"data: b\r\r".to_vec()]);
        assert_eq!(split(&[b": hi\n\n", b"\n"]), [b": hi\n\n".to_vec(), b"\n".to_vec()]);
    }

    #[test]
    fn a_bare_cr_does_not_wait_for_a_line_feed() {
        let mut splitter = Splitter::new(1024);
        splitter.push(b"data: a\r\r");
        assert_eq!(splitter.next_frame().unwrap().unwrap().bytes, "data: a\r\r");
        splitter.push(b"\ndata: b\n\n");
        assert_eq!(splitter.next_frame().unwrap().unwrap().bytes, "\ndata: b\n\n");
    }

    #[test]
    fn data_lines_are_joined_and_replaced() {
        let frame = |text: &'static str| Frame { bytes: Bytes::from_static(text.as_bytes()) };
        let event = frame(": c\r\nid: 7\r\ndata: {\"a\":\r\ndata:1}\r\nretry: 5\r\n\r\n");
        assert_eq!(event.data().unwrap(), b"{\"a\":\n1}");
        assert_eq!(event.with_data(b"{}"), ": c\r\nid: 7\r\ndata: {}\r\nretry: 5\r\n\r\n");
        assert_eq!(frame("id: 1\ndata\n\n").data().unwrap(), b"");
        assert_eq!(frame("id: 1\n\n").data(), None);
        assert_eq!(frame("dataset: 1\n\n").data(), None);
        assert_eq!(frame("\u{feff}data: x\n\n").data().unwrap(), b"x");
        assert_eq!(frame("\u{feff}data: x\n\n").with_data(b"y"), "\u{feff}data: y\n\n");
        assert_eq!(frame("data: x").with_data(b"y"), "data: y\n");
    }

    #[test]
    fn a_frame_has_a_bound() {
        let mut splitter = Splitter::new(16);
        splitter.push(b"data: 0123456789abcdef");
        assert_eq!(splitter.next_frame(), Err(FrameTooLong { limit: 16 }));
        let mut splitter = Splitter::new(16);
        splitter.push(b"data: 0123456789abcdef\n\n");
        assert_eq!(splitter.next_frame(), Err(FrameTooLong { limit: 16 }));
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_however_the_stream_is_cut(
            stream in proptest::collection::vec(prop_oneof![
                Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(b' '), any::<u8>()
            ], 0..200),
            cuts in proptest::collection::vec(1_usize..9, 1..60),
        ) {
            let mut chunks = Vec::new();
            let mut rest = stream.as_slice();
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(split(&chunks).concat(), stream);
        }

        #[test]
        fn the_data_does_not_depend_on_the_cuts(
            text in "[a-z{}:\" ]{0,20}", other in "[a-z]{0,10}", ends in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            cut in 1_usize..7,
        ) {
            let stream = format!("id: {other}{ends}data: {text}{ends}data: {other}{ends}{ends}");
            let chunks: Vec<&[u8]> = stream.as_bytes().chunks(cut).collect();
            let mut splitter = Splitter::new(1 << 20);
            let mut data = Vec::new();
            for chunk in chunks {
                splitter.push(chunk);
                while let Some(frame) = splitter.next_frame().unwrap() {
                    data.extend(frame.data());
                }
            }
            prop_assert_eq!(data, vec![format!("{text}\n{other}").into_bytes()]);
        }
    }
}
