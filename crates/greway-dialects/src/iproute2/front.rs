//! The front of `ip`: global options and the object, as iproute2 itself reads them.
//!
//! This decides for every `ip` command on a host whether it can be about GRE at all, so it is short, allocates
//! next to nothing and has no errors: what iproute2 would refuse, or do something else with (`-V`, `-help`), is
//! [`None`], and the real tool says so in its own words.
//!
//! Options are matched by prefix in the order of iproute2's `main` (ip/ip.c, 6.1), objects in the order of its
//! table `cmds`; one dash is as good as two.

use super::args::{Family, begins};

/// The options before the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-4`, `-6` and the others; the last one holds.
    pub family: Family,
    /// `-s`, counted.
    pub stats: u32,
    /// `-d`, counted.
    pub details: u32,
    /// `-o`: line breaks become backslashes.
    pub oneline: bool,
    /// `-br`
    pub brief: bool,
    /// `-j`
    pub json: bool,
    /// `-p`: JSON for people.
    pub pretty: bool,
    /// `-fo`: a batch goes on after an error.
    pub force: bool,
    /// `-b FILE`; `-` is standard input.
    pub batch: Option<String>,
    /// `-n NAME`: the network namespace to work in.
    pub netns: Option<String>,
    /// `-c[=WHEN]`
    pub colour: bool,
    /// `-N`: numbers instead of names.
    pub numeric: bool,
}

/// What a command is about, where it may be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// `ip address`
    Address,
    /// `ip route`
    Route,
    /// `ip link`
    Link,
    /// `ip tunnel`
    Tunnel,
    /// `ip neighbour`
    Neighbour,
    /// Anything else that iproute2 knows or does not know.
    Other,
}

/// The front of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The options.
    pub options: Options,
    /// How many words the options are, a closing `--` with them.
    pub length: usize,
    /// The object behind them; `None` where the command ends there.
    pub object: Option<Object>,
}

/// AF_PACKET, AF_MPLS and AF_BRIDGE (linux include/linux/socket.h).
const PACKET: Family = Family::Other(17);
const MPLS: Family = Family::Other(28);
const BRIDGE: Family = Family::Other(7);

/// iproute2's table of objects (ip/ip.c `cmds`), where the first that a word is the beginning of is taken.
const OBJECTS: [(&str, Object); 32] = [
    ("address", Object::Address),
    ("addrlabel", Object::Other),
    ("maddress", Object::Other),
    ("route", Object::Route),
    ("rule", Object::Other),
    ("neighbor", Object::Neighbour),
    ("neighbour", Object::Neighbour),
    ("ntable", Object::Other),
    ("ntbl", Object::Other),
    ("link", Object::Link),
    ("l2tp", Object::Other),
    ("fou", Object::Other),
    ("ila", Object::Other),
    ("macsec", Object::Other),
    ("tunnel", Object::Tunnel),
    ("tunl", Object::Tunnel),
    ("tuntap", Object::Other),
    ("token", Object::Other),
    ("tcpmetrics", Object::Other),
    ("monitor", Object::Other),
    ("xfrm", Object::Other),
    ("mroute", Object::Other),
    ("mrule", Object::Other),
    ("netns", Object::Other),
    ("netconf", Object::Other),
    ("vrf", Object::Other),
    ("sr", Object::Other),
    ("nexthop", Object::Other),
    ("mptcp", Object::Other),
    ("ioam", Object::Other),
    ("stats", Object::Other),
    ("help", Object::Other),
];

/// Reads the front of a command: the words behind `ip`.
///
/// `None`: iproute2 would refuse the options, or answers one of them by itself.
pub fn parse_front<W: AsRef<str>>(words: &[W]) -> Option<Front> {
    let mut options = Options::default();
    let mut at = 0;
    while let Some(word) = words.get(at).map(AsRef::as_ref) {
        if word == "--" {
            at += 1;
            break;
        }
        let Some(option) = word.strip_prefix('-') else { break };
        let option = option.strip_prefix('-').unwrap_or(option);
        let value = words.get(at + 1).map(AsRef::as_ref);
        at += if options.take(option, value)? { 2 } else { 1 };
    }
    let object = words.get(at).map(|word| parse_object(word.as_ref()));
    Some(Front { options, length: at, object })
}

/// The object that a word stands for.
pub fn parse_object(word: &str) -> Object {
    let found = OBJECTS.iter().find(|(name, _)| begins(word, name));
    found.map_or(Object::Other, |(_, object)| *object)
}

impl Options {
    /// Takes in one option, without its dashes; whether it took the next word too.
    fn take(&mut self, option: &str, value: Option<&str>) -> Option<bool> {
        let is = |whole: &str| whole.starts_with(option);
        // A dash alone: `matches` finds it to be the beginning of "-loops".
        if is("loops") {
            return value.map(|_| true);
        } else if is("family") {
            self.family = parse_family(value?)?;
            return Some(true);
        }
        match option {
            "4" => self.family = Family::Inet,
            "6" => self.family = Family::Inet6,
            "0" => self.family = PACKET,
            "M" => self.family = MPLS,
            "B" => self.family = BRIDGE,
            _ if is("human") || is("human-readable") || is("iec") => {}
            _ if is("stats") || is("statistics") => self.stats += 1,
            _ if is("details") => self.details += 1,
            _ if is("resolve") => {}
            _ if is("oneline") => self.oneline = true,
            _ if is("timestamp") || is("tshort") => {}
            _ if is("Version") => return None,
            _ if is("force") => self.force = true,
            _ if is("batch") => {
                self.batch = Some(value?.to_owned());
                return Some(true);
            }
            _ if is("brief") => self.brief = true,
            _ if is("json") => self.json = true,
            _ if is("pretty") => self.pretty = true,
            _ if is("rcvbuf") => return value.map(|_| true),
            _ if is_colour(option) => self.colour = true,
            _ if is("help") => return None,
            _ if is("netns") => {
                self.netns = Some(value?.to_owned());
                return Some(true);
            }
            _ if is("Numeric") => self.numeric = true,
            _ if is("all") => {}
            "echo" => {}
            _ => return None,
        }
        Some(false)
    }
}

/// iproute2's `read_family` (lib/utils.c).
fn parse_family(word: &str) -> Option<Family> {
    match word {
        "inet" => Some(Family::Inet),
        "inet6" => Some(Family::Inet6),
        "link" => Some(PACKET),
        "mpls" => Some(MPLS),
        "bridge" => Some(BRIDGE),
        _ => None,
    }
}

/// `-c[olor][=always|auto|never]` (lib/color.c `matches_color`).
fn is_colour(option: &str) -> bool {
    let (name, when) = option.split_once('=').map_or((option, None), |(name, when)| (name, Some(when)));
    begins(name, "color") && when.is_none_or(|when| matches!(when, "always" | "auto" | "never"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front(text: &str) -> Option<Front> {
        parse_front(&text.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn options_go_by_prefix_in_the_order_of_iproute2() {
        let options = |text: &str| front(text).unwrap().options;
        assert_eq!(options("-b x link").batch.as_deref(), Some("x"));
        assert!(options("-br link").brief && options("-brief l").brief);
        assert_eq!(options("-f inet6 tunnel").family, Family::Inet6);
        assert!(options("-fo -b - link").force);
        assert_eq!(options("-n blue link").netns.as_deref(), Some("blue"));
        assert_eq!(options("-N link").netns, None);
        assert_eq!(options("-s -s --stats -stat link").stats, 4);
        let all = options("-d -j -p -o -a -r -t -ts -4 -c=always -col -h -iec -rc 100 -l 3 -echo link");
        assert!(all.json && all.pretty && all.oneline && all.colour && !all.numeric && all.details == 1);
        assert_eq!(all.family, Family::Inet);
        assert!(options("-N -B link").numeric);
        assert_eq!(options("-B link").family, BRIDGE);
        assert_eq!(front("-d -- link show").unwrap().length, 2);
        assert_eq!(front("-d").unwrap().object, None);
        assert_eq!(front("- 5 tunnel").unwrap().object, Some(Object::Tunnel), "a dash is -loops");
    }

    #[test]
    fn what_the_real_one_answers_itself_is_left_to_it() {
        for text in [
            "-V",
            "-Version link",
            "-help",
            "-b",
            "-n",
            "-f",
            "-f help",
            "-f ipx link",
            "-x tunnel",
            "-e",
            "-echos",
            "-c=maybe link",
            "-5",
        ] {
            assert_eq!(front(text), None, "{text}");
        }
    }

    #[test]
    fn objects_go_by_prefix_in_the_order_of_the_table() {
        for (word, object) in [
            ("a", Object::Address),
            ("addr", Object::Address),
            ("addrl", Object::Other),
            ("l", Object::Link),
            ("l2", Object::Other),
            ("r", Object::Route),
            ("ru", Object::Other),
            ("t", Object::Tunnel),
            ("tu", Object::Tunnel),
            ("tun", Object::Tunnel),
            ("tunl", Object::Tunnel),
            ("tunnel", Object::Tunnel),
            ("tunt", Object::Other),
            ("to", Object::Other),
            ("tunnels", Object::Other),
            ("frobnicate", Object::Other),
            ("", Object::Other),
            ("LINK", Object::Other),
        ] {
            assert_eq!(parse_object(word), object, "{word}");
        }
    }
}
