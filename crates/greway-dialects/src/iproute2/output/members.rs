//! Where the parts of a JSON text lie, so that one can be replaced and the rest stays byte for byte.

use std::ops::Range;

/// One member of an object.
pub(super) struct Member<'t> {
    pub(super) name: &'t str,
    /// Where the name begins.
    pub(super) start: usize,
    pub(super) value: Range<usize>,
}

/// The elements of the list that `text` is. `None`: it is none.
pub(super) fn elements(text: &str) -> Option<Vec<Range<usize>>> {
    let scan = Scan { bytes: text.as_bytes() };
    let mut at = scan.expect(0, b'[')?;
    let mut elements = Vec::new();
    loop {
        at = scan.blanks(at);
        if let Some(end) = scan.expect(at, b']') {
            return (scan.blanks(end) == text.len()).then_some(elements);
        }
        let end = scan.value(at)?;
        elements.push(at..end);
        at = scan.blanks(end);
        at = scan.expect(at, b',').unwrap_or(at);
    }
}

/// The members of the object at `object`.
pub(super) fn members<'t>(text: &'t str, object: &Range<usize>) -> Option<Vec<Member<'t>>> {
    let scan = Scan { bytes: text.as_bytes() };
    let mut at = scan.expect(object.start, b'{')?;
    let mut members = Vec::new();
    loop {
        at = scan.blanks(at);
        if scan.expect(at, b'}').is_some() {
            return Some(members);
        }
        let end = scan.string(at)?;
        let name = text.get(at + 1..end - 1)?;
        let value = scan.blanks(scan.expect(scan.blanks(end), b':')?);
        let value_end = scan.value(value)?;
        members.push(Member { name, start: at, value: value..value_end });
        at = scan.blanks(value_end);
        at = scan.expect(at, b',').unwrap_or(at);
    }
}

struct Scan<'t> {
    bytes: &'t [u8],
}

impl Scan<'_> {
    fn blanks(&self, mut at: usize) -> usize {
        while self.bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    }

    fn expect(&self, at: usize, byte: u8) -> Option<usize> {
        (self.bytes.get(at) == Some(&byte)).then_some(at + 1)
    }

    fn string(&self, at: usize) -> Option<usize> {
        let mut at = self.expect(at, b'"')?;
        loop {
            match self.bytes.get(at)? {
                b'"' => return Some(at + 1),
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
    }

    /// The end of the value that begins at `at`.
    fn value(&self, at: usize) -> Option<usize> {
        match self.bytes.get(at)? {
            b'"' => self.string(at),
            b'{' | b'[' => {
                let mut depth = 0_usize;
                let mut at = at;
                loop {
                    match self.bytes.get(at)? {
                        b'"' => {
                            at = self.string(at)?;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    at += 1;
                    if depth == 0 {
                        return Some(at);
                    }
                }
            }
            _ => {
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                let length = self.bytes.get(at..)?.iter().take_while(|byte| word(byte)).count();
                (length > 0).then_some(at + length)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_and_not_found() {
        let text = "[ {\n \"a\": \"}\\\"\", \"b\": [ 1,{\"c\":null} ] },{} ]\n";
        let elements = elements(text).unwrap();
        assert_eq!(elements.len(), 2);
        let found = members(text, &elements[0]).unwrap();
        let found: Vec<_> = found.into_iter().map(|m| (m.name, &text[m.value])).collect();
        assert_eq!(found, [("a", "\"}\\\"\""), ("b", "[ 1,{\"c\":null} ]")]);
        assert!(members(text, &elements[1]).unwrap().is_empty());
        for text in ["", "{}", "[", "[1,2", "[{\"a\":}]", "[] x", "[\"a]"] {
            let parsed = super::elements(text);
            let inner = parsed.as_ref().and_then(|all| all.first()).and_then(|first| members(text, first));
            assert!(parsed.is_none() || inner.is_none(), "{text}");
        }
    }
}
