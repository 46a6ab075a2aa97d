//! A textual key in a file: the number it stands for.
//!
//! Every other tool wants a number; files that say `KEY=lichenhao` are around all the same.

use greway_spec::parse_key;
use sha2::{Digest, Sha256};

/// The number that a textual key stands for: the first four bytes of its SHA-256, big-endian.
/// `printf %s TEXT | sha256sum | cut -c1-8` prints the same in hexadecimal.
pub fn derive_key(text: &str) -> u32 {
    let digest = Sha256::digest(text.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// Whether a text looks like a number or quad that went wrong, so that nothing is derived from it.
fn looks_numeric(text: &str) -> bool {
    let digits = text.trim_start_matches(['-', '+']);
    text.is_empty() || digits.starts_with(|c: char| c.is_ascii_digit()) && parse_like_number(digits)
}

fn parse_like_number(text: &str) -> bool {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => text.chars().all(|c| c.is_ascii_digit() || c == '.'),
    }
}

/// A key in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileKey {
    pub(crate) number: u32,
    /// What to tell the user where the number was derived from text.
    pub(crate) warning: Option<String>,
}

/// Reads a key in a file: number, quad, or (unless `strict`) text. `field` is the key's name there.
pub(crate) fn file_key(field: &str, text: &str, strict: bool) -> Result<FileKey, String> {
    let error = match parse_key(text) {
        Ok(number) => return Ok(FileKey { number, warning: None }),
        Err(error) => error,
    };
    if strict || looks_numeric(text) {
        return Err(format!(
            "{field} \"{text}\" is no key: {}",
            match error {
                greway_spec::KeyError::NotANumber(_) =>
                    "0 to 4294967295 is right, or a dotted quad such as 10.0.0.1",
                greway_spec::KeyError::NotAQuad(_) =>
                    "up to four numbers of 0 to 255 with dots between are right",
            }
        ));
    }
    let number = derive_key(text);
    let warning = format!(
        "{field} \"{text}\" is not a number; using {number} (0x{number:08x}); a peer that is not greway must be \
         given that number; the key is sent in clear and is no password"
    );
    Ok(FileKey { number, warning: Some(warning) })
}

/// A key as files of ours have it: number, quad, or text that a number is derived from. Gives the number, and
/// what to tell the user where it was derived. `field` is what the key is called.
///
/// # Errors
/// A text that looks like a number and is none.
pub fn parse_file_key(field: &str, text: &str) -> Result<(u32, Option<String>), String> {
    file_key(field, text, false).map(|key| (key.number, key.warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide() {
        assert_eq!(derive_key("lichenhao"), 63_077_743);
        let key = file_key("KEY", "lichenhao", false).unwrap();
        assert_eq!(key.number, 0x03c2_7d6f);
        let warning = key.warning.unwrap();
        for part in ["63077743", "0x03c27d6f", "not greway", "in clear", "no password"] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
    }

    #[test]
    fn numbers_stay_numbers_and_slips_are_no_text() {
        assert_eq!(file_key("key", "0x2a", false), Ok(FileKey { number: 42, warning: None }));
        for text in ["4294967296", "-1", "", "1.2.3.400", "1.2.3.4.5", "0x1ffffffff", "08"] {
            assert!(file_key("key", text, false).unwrap_err().contains(text), "{text:?}");
        }
        assert!(file_key("key", "a.b", false).unwrap().warning.is_some());
        assert!(file_key("key", "lichenhao", true).unwrap_err().contains("4294967295"));
    }
}
