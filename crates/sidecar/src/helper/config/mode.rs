//! Permissions of files.

use std::fmt;

use super::hcl::Data;

/// The permission bits of a file, at most `0777`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    /// What everybody may read.
    pub const PUBLIC: Self = Self(0o644);
    /// What only the owner may read.
    pub const PRIVATE: Self = Self(0o600);

    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Reads a mode: `0644` or `0o644`, the same as a string (`"0644"`, `"644"`), or a decimal number such as
    /// `420` (which is `0644`), as JSON writes it. Zero means the default: none.
    ///
    /// A decimal number that looks like an octal one without its zero (`600`, `400`) is refused: read as HCL
    /// reads it, it would give permissions that nobody meant.
    pub(super) fn read(data: &Data) -> Option<Result<Option<Self>, String>> {
        match data {
            Data::Text(text) if text.is_empty() => Some(Ok(None)),
            Data::Text(text) => Some(octal(text.strip_prefix("0o").unwrap_or(text))),
            Data::Number(digits) => Some(number(digits)),
            _ => None,
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileMode({self})")
    }
}

fn number(digits: &str) -> Result<Option<FileMode>, String> {
    if digits == "0" {
        return Ok(None);
    }
    if let Some(rest) = digits.strip_prefix("0o").or_else(|| digits.strip_prefix('0')) {
        return octal(rest);
    }
    let Ok(value) = digits.parse::<u32>() else {
        return Err("write it in octal, as in 0644".to_owned());
    };
    let digits = format!("0{digits}");
    if value > 0o777 || !is_plain(value) {
        return Err(format!(
            "read as a decimal number it is {value:04o} in octal; write {digits} if you meant that"
        ));
    }
    Ok(Some(FileMode(value)))
}

fn octal(digits: &str) -> Result<Option<FileMode>, String> {
    // from_str_radix takes a sign.
    let digits = digits.chars().all(|c| c.is_digit(8)).then_some(digits);
    match digits.and_then(|digits| u32::from_str_radix(digits, 8).ok()) {
        Some(0) => Ok(None),
        Some(value) if value <= 0o777 => Ok(Some(FileMode(value))),
        Some(_) => Err("it has more than the permission bits, 0777".to_owned()),
        None => Err("write it in octal, as in 0644".to_owned()),
    }
}

/// Readable for the owner, no executable file, and nobody may write who may not read.
fn is_plain(mode: u32) -> bool {
    let classes = [mode >> 6, (mode >> 3) & 7, mode & 7];
    mode >> 6 & 4 != 0 && classes.iter().all(|class| class & 1 == 0 && (class & 2 == 0 || class & 4 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: Data) -> String {
        match FileMode::read(&data) {
            None => "another type".to_owned(),
            Some(Ok(None)) => "default".to_owned(),
            Some(Ok(Some(mode))) => mode.to_string(),
            Some(Err(problem)) => problem,
        }
    }

    #[test]
    fn a_mode_is_octal_or_a_decimal_that_cannot_be_mistaken() {
        for (digits, wanted) in [
            ("0644", "0644"),
            ("0o640", "0640"),
            ("0600", "0600"),
            ("0444", "0444"),
            ("420", "0644"),
            ("384", "0600"),
            ("416", "0640"),
            ("288", "0440"),
            ("0", "default"),
            ("0000", "default"),
            ("644", "read as a decimal number it is 1204 in octal; write 0644 if you meant that"),
            ("600", "read as a decimal number it is 1130 in octal; write 0600 if you meant that"),
            ("400", "read as a decimal number it is 0620 in octal; write 0400 if you meant that"),
            ("440", "read as a decimal number it is 0670 in octal; write 0440 if you meant that"),
            ("02755", "it has more than the permission bits, 0777"),
            ("0688", "write it in octal, as in 0644"),
            ("-1", "write it in octal, as in 0644"),
            ("6.44", "write it in octal, as in 0644"),
            ("0x1a4", "write it in octal, as in 0644"),
        ] {
            assert_eq!(read(Data::Number(digits.to_owned())), wanted, "{digits}");
        }
        for (text, wanted) in [
            ("0644", "0644"),
            ("644", "0644"),
            ("0o600", "0600"),
            ("", "default"),
            ("u=rw", "write it in octal, as in 0644"),
            ("+644", "write it in octal, as in 0644"),
        ] {
            assert_eq!(read(Data::Text(text.to_owned())), wanted, "{text:?}");
        }
        assert_eq!(read(Data::Bool(true)), "another type");
    }
}
