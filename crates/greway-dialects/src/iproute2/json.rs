//! JSON byte for byte as iproute2 writes it (lib/json_writer.c, 6.1): no blanks, or with `-p` four to a
//! level and one inside the brackets of a list. Programs do not care, people who compare outputs do.

/// A writer of one document.
pub(super) struct Json {
    pub(super) out: String,
    depth: usize,
    /// Something was written at this level before.
    comma: bool,
    pretty: bool,
}

impl Json {
    pub(super) fn new(pretty: bool) -> Self {
        Self { out: String::new(), depth: 0, comma: false, pretty }
    }

    /// A writer inside of something at this depth, after what is there already or not.
    pub(super) fn within(pretty: bool, depth: usize, comma: bool) -> Self {
        Self { out: String::new(), depth, comma, pretty }
    }

    pub(super) fn name(&mut self, name: &str) {
        self.separate();
        self.line();
        self.comma = false;
        self.quote(name);
        self.out += if self.pretty { ": " } else { ":" };
    }

    pub(super) fn string(&mut self, value: &str) {
        self.separate();
        self.quote(value);
    }

    /// A number, `true`, `false` or `null`.
    pub(super) fn plain(&mut self, value: impl std::fmt::Display) {
        self.separate();
        self.out += &value.to_string();
    }

    pub(super) fn open_object(&mut self) {
        self.open('{');
    }

    pub(super) fn close_object(&mut self) {
        self.depth -= 1;
        if self.comma {
            self.line();
        }
        self.out.push('}');
        self.comma = true;
    }

    pub(super) fn open_list(&mut self) {
        self.open('[');
        if self.pretty {
            self.out.push(' ');
        }
    }

    pub(super) fn close_list(&mut self) {
        if self.pretty && self.comma {
            self.out.push(' ');
        }
        self.depth -= 1;
        self.out.push(']');
        self.comma = true;
    }

    pub(super) fn string_field(&mut self, name: &str, value: &str) {
        self.name(name);
        self.string(value);
    }

    pub(super) fn plain_field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        self.plain(value);
    }

    fn open(&mut self, bracket: char) {
        self.separate();
        self.out.push(bracket);
        self.depth += 1;
        self.comma = false;
    }

    fn separate(&mut self) {
        if self.comma {
            self.out.push(',');
        }
        self.comma = true;
    }

    fn line(&mut self) {
        if self.pretty {
            self.out.push('\n');
            self.out += &"    ".repeat(self.depth);
        }
    }

    fn quote(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '\t' => self.out += "\\t",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\u{c}' => self.out += "\\f",
                '\u{8}' => self.out += "\\b",
                '\\' => self.out += "\\\\",
                '"' => self.out += "\\\"",
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(pretty: bool) -> String {
        let mut json = Json::new(pretty);
        json.open_list();
        json.open_object();
        json.string_field("a", "x\"\t");
        json.name("flags");
        json.open_list();
        json.string("p");
        json.string("q");
        json.close_list();
        json.close_object();
        json.close_list();
        json.out
    }

    #[test]
    fn compact_and_pretty() {
        assert_eq!(document(false), "[{\"a\":\"x\\\"\\t\",\"flags\":[\"p\",\"q\"]}]");
        assert_eq!(
            document(true),
            "[ {\n        \"a\": \"x\\\"\\t\",\n        \"flags\": [ \"p\",\"q\" ]\n    } ]"
        );
    }

    #[test]
    fn nothing_in_a_list() {
        // As `ip -j tunnel show` and `ip -j -p tunnel show` print it where there is no tunnel.
        for (pretty, text) in [(false, "[]"), (true, "[ ]")] {
            let mut json = Json::new(pretty);
            json.open_list();
            json.close_list();
            assert_eq!(json.out, text);
        }
    }
}
