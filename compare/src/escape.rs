//! Names and values, which may hold any bytes, as one line of text.

use std::fmt::Write;

/// Text that tells these bytes and no others: what is printable UTF-8 stands for itself, a backslash is
/// doubled, and each other byte is `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                // Also what looks like a space or turns the direction of text would hide a difference.
                _ if character.is_control() || (character.is_whitespace() && character != ' ') => {
                    push_bytes(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                    push_bytes(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => text.push(character),
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("writing to a string does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::escape;

    fn check(bytes: &[u8], text: &str) {
        assert_eq!(escape(bytes), text);
    }

    #[test]
    fn each_kind_of_byte() {
        check(b"plain name.txt", "plain name.txt");
        check("grün".as_bytes(), "grün");
        check(b"a\tb\nc", "a\\x09b\\x0ac");
        check(b"back\\slash", "back\\\\slash");
        check(b"not \xff\xfe utf-8", "not \\xff\\xfe utf-8");
        check("a\u{202e}b".as_bytes(), "a\\xe2\\x80\\xaeb");
        check(b"cut \xe2\x82", "cut \\xe2\\x82");
    }
}
