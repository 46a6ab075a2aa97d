//! nmcli's words for ip-tunnel profiles (1.42.4): `connection add|modify|up|down|delete|show`.
//!
//! The grammar has a trap of its own: `mode`, `remote`, `local` and `dev` are words only after `type
//! ip-tunnel`, and only in full, while both halves of `ip-tunnel.remote` may be abbreviated. Error texts and
//! exit codes are nmcli's, since scripts look at them. A connection of another type and every other object or
//! command is [`Command::NotOurs`]: whoever calls decides what that means.

use super::profile::Profile;
use super::property::{self, Property};
use super::value::Value;
use super::{Identity, Unsayable, types};
use crate::shell;
use greway_spec::TunnelSpec;

/// What nmcli says when it does not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Its error lines, without the newline at the end.
    pub text: String,
    /// Its exit code.
    pub code: u8,
}

impl Refusal {
    /// `Error: TEXT`.
    pub fn new(text: impl std::fmt::Display, code: u8) -> Self {
        Self { text: format!("Error: {text}"), code }
    }
}

/// Exit codes of nmcli(1).
pub mod exit {
    /// Unknown or unspecified error; a profile that is not valid.
    pub const ERROR: u8 = 1;
    /// Invalid user input.
    pub const INPUT: u8 = 2;
    /// Activation or adding failed.
    pub const ACTIVATION: u8 = 4;
    /// Deactivation failed.
    pub const DEACTIVATION: u8 = 5;
    /// Deleting failed.
    pub const DELETE: u8 = 7;
    /// NetworkManager is not running.
    pub const NOT_RUNNING: u8 = 8;
    /// There is no such connection.
    pub const NOT_FOUND: u8 = 10;
}

/// A command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What was said before the object.
    pub options: Options,
    /// What is to be done.
    pub command: Command,
}

/// Options in front of the object, as far as they matter for profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-t`.
    pub terse: bool,
    /// `-p`.
    pub pretty: bool,
    /// `-m`: multiline (true) or tabular; `None`: as the command has it.
    pub multiline: Option<bool>,
    /// `-f` or `-g`: the fields to show.
    pub fields: Option<Vec<String>>,
    /// `-g`: values only.
    pub values_only: bool,
    /// `-e no` takes it away: `:` and `\` are escaped in terse tables.
    pub no_escape: bool,
    /// `--offline`: print the keyfile, store nothing.
    pub offline: bool,
    /// `-w SECONDS`.
    pub wait: Option<u32>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `connection add type ip-tunnel …`.
    Add(Box<Add>),
    /// `connection modify`.
    Modify(Modify),
    /// `connection up`.
    Up(Selector),
    /// `connection down`.
    Down(Vec<Selector>),
    /// `connection delete`.
    Delete(Vec<Selector>),
    /// `connection show`.
    Show {
        /// These profiles in full; none: a list of all.
        profiles: Vec<Selector>,
        /// `--active`: those that are up.
        active: bool,
    },
    /// Nothing about an ip-tunnel profile, as far as can be told without looking.
    NotOurs,
}

/// A new profile; not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// It has an id, but perhaps no uuid.
    pub profile: Profile,
    /// Whether the user named it (`con-name`); a name made up is numbered where it is taken.
    pub named: bool,
    /// `save no`: until the next reboot.
    pub save: bool,
}

/// Changes to a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modify {
    /// Which.
    pub profile: Selector,
    /// `--temporary`: until the next reboot.
    pub temporary: bool,
    words: Vec<String>,
}

/// How the user names a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The word before it.
    pub by: Option<By>,
    /// What is meant.
    pub text: String,
}

/// What a profile is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `id`.
    Id,
    /// `uuid`.
    Uuid,
    /// `path`, a path on the bus.
    Path,
}

impl By {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Uuid => "uuid",
            Self::Path => "path",
        }
    }
}

impl Selector {
    /// Whether a profile is meant.
    pub fn means(&self, profile: &Profile) -> bool {
        let uuid = || profile.uuid().is_some_and(|uuid| uuid.eq_ignore_ascii_case(&self.text));
        match self.by {
            None => profile.id() == self.text || uuid(),
            Some(By::Id) => profile.id() == self.text,
            Some(By::Uuid) => uuid(),
            Some(By::Path) => false,
        }
    }
}

/// Reads the words after `nmcli`.
///
/// # Errors
/// What nmcli says to wrong ones.
pub fn parse<W: AsRef<str>>(words: &[W]) -> Result<Invocation, Refusal> {
    let words = words.iter().map(AsRef::as_ref).collect::<Vec<_>>();
    let (options, rest) = global_options(&words)?;
    let command = match rest {
        [object, rest @ ..] if is_connection(object) => connection(rest, &options)?,
        _ => Command::NotOurs,
    };
    Ok(Invocation { options, command })
}

/// The nmcli command that makes this tunnel, to be pasted into a shell.
///
/// # Errors
/// The first field that NetworkManager has no property for.
pub fn render(spec: &TunnelSpec, identity: &Identity) -> Result<String, Unsayable> {
    let profile = Profile::of(spec, identity)?;
    let mut words = ["nmcli", "connection", "add", "type", "ip-tunnel"].map(str::to_owned).to_vec();
    let mut word = |name: &str, value: &str| words.extend([name.to_owned(), shell::word(value)]);
    word("con-name", &identity.id);
    word("ifname", spec.name.as_str());
    if !identity.autoconnect {
        word("autoconnect", "no");
    }
    word("mode", spec.mode.word());
    for (property, given) in profile.properties() {
        let alias = match (property.setting, property.name) {
            ("connection", _) | ("ip-tunnel", "mode") => continue,
            ("ip-tunnel", "remote") => "remote",
            ("ip-tunnel", "local") => "local",
            ("ip-tunnel", "parent") => "dev",
            _ => &property.full_name(),
        };
        word(alias, &given.value.show(property, false));
    }
    Ok(words.join(" "))
}

fn is_connection(word: &str) -> bool {
    !word.is_empty() && "connection".starts_with(word)
}

fn global_options<'w, 'a>(words: &'w [&'a str]) -> Result<(Options, &'w [&'a str]), Refusal> {
    // In the order in which nmcli tries them; a beginning is enough.
    const NAMES: [&str; 14] = [
        "overview",
        "terse",
        "pretty",
        "mode",
        "colors",
        "escape",
        "fields",
        "get-values",
        "nocheck",
        "wait",
        "version",
        "help",
        "ask",
        "show-secrets",
    ];
    let mut options = Options::default();
    let mut rest = words;
    while let [option, after @ ..] = rest {
        let Some(name) = option.strip_prefix('-') else { break };
        let name = name.strip_prefix('-').unwrap_or(name);
        rest = after;
        if name == "offline" || name.len() > 1 && "offline".starts_with(name) {
            options.offline = true;
            continue;
        }
        let Some(known) = NAMES.into_iter().find(|known| !name.is_empty() && known.starts_with(name)) else {
            return Err(Refusal::new(
                format!("Option '{option}' is unknown, try 'nmcli -help'."),
                exit::INPUT,
            ));
        };
        let takes_value = matches!(known, "mode" | "colors" | "escape" | "fields" | "get-values" | "wait");
        let mut value = "";
        if takes_value {
            let [first, after @ ..] = rest else {
                return Err(Refusal::new(format!("missing argument for '{option}' option."), exit::INPUT));
            };
            (value, rest) = (first, after);
        }
        let wrong = || {
            let long = if option.starts_with("--") { known } else { value };
            Refusal::new(format!("'{value}' is not a valid argument for '{long}' option."), exit::INPUT)
        };
        let fields = || Some(value.split(',').map(|field| field.trim().to_owned()).collect());
        match known {
            "terse" => options.terse = true,
            "pretty" => options.pretty = true,
            "mode" if !value.is_empty() && "tabular".starts_with(value) => options.multiline = Some(false),
            "mode" if !value.is_empty() && "multiline".starts_with(value) => options.multiline = Some(true),
            "mode" => return Err(wrong()),
            "escape" => options.no_escape = !super::value::flag(value).map_err(|_error| wrong())?,
            "fields" => options.fields = fields(),
            "get-values" => {
                (options.terse, options.values_only, options.fields) = (true, true, fields());
            }
            "wait" => {
                let invalid = || Refusal::new(format!("'{value}' is not a valid timeout."), exit::INPUT);
                options.wait = Some(value.parse().map_err(|_error| invalid())?);
            }
            // About nmcli itself, not about a profile.
            "version" | "help" => return Ok((options, &[])),
            _ => {}
        }
    }
    Ok((options, rest))
}

fn connection(words: &[&str], options: &Options) -> Result<Command, Refusal> {
    // In nmcli's order: the first that begins so is meant.
    const COMMANDS: [&str; 14] = [
        "show", "up", "down", "add", "edit", "delete", "reload", "load", "modify", "clone", "import",
        "export", "monitor", "help",
    ];
    let Some((word, rest)) = words.split_first() else {
        return Ok(Command::Show { profiles: Vec::new(), active: false });
    };
    let command = COMMANDS.into_iter().find(|command| !word.is_empty() && command.starts_with(word));
    if options.offline && !matches!(command, Some("add")) {
        return Err(Refusal::new("command doesn't support --offline mode.", exit::INPUT));
    }
    if rest.first().is_some_and(|first| matches!(*first, "help" | "--help" | "-h")) {
        return Ok(Command::NotOurs);
    }
    match command {
        Some("add") => add(rest),
        Some("modify") => modify(rest),
        Some("show") => show(rest),
        Some("up") => up(rest),
        Some("down") => Ok(Command::Down(selectors(rest, exit::INPUT)?)),
        Some("delete") => Ok(Command::Delete(selectors(rest, exit::NOT_FOUND)?)),
        _ => Ok(Command::NotOurs),
    }
}

fn show(words: &[&str]) -> Result<Command, Refusal> {
    let mut rest = words;
    let mut active = false;
    while let [option, after @ ..] = rest
        && option.starts_with("--")
    {
        match *option {
            "--active" => (active, rest) = (true, after),
            // One order is as good as another for a few tunnels.
            "--order" => rest = after.get(1..).unwrap_or_default(),
            _ => break,
        }
    }
    let profiles = if rest.is_empty() { Vec::new() } else { selectors(rest, exit::NOT_FOUND)? };
    Ok(Command::Show { profiles, active })
}

fn up(words: &[&str]) -> Result<Command, Refusal> {
    let Some((selector, rest)) = selector(words)? else {
        return Err(Refusal::new("neither a valid connection nor device given.", exit::NOT_FOUND));
    };
    match rest {
        [] => Ok(Command::Up(selector)),
        // A tunnel has its own device; another one to bring it up on is for NetworkManager to refuse.
        _ => Ok(Command::NotOurs),
    }
}

fn selectors(mut words: &[&str], none: u8) -> Result<Vec<Selector>, Refusal> {
    let mut selectors = Vec::new();
    while let Some((selector, rest)) = selector(words)? {
        selectors.push(selector);
        words = rest;
    }
    if selectors.is_empty() {
        return Err(Refusal::new("No connection specified.", none));
    }
    Ok(selectors)
}

fn selector<'w, 'a>(words: &'w [&'a str]) -> Result<Option<(Selector, &'w [&'a str])>, Refusal> {
    let by = match words {
        [] => return Ok(None),
        ["id", ..] => Some(By::Id),
        ["uuid", ..] => Some(By::Uuid),
        ["path" | "apath", ..] => Some(By::Path),
        _ => None,
    };
    let words = if by.is_some() { &words[1..] } else { words };
    let Some((text, rest)) = words.split_first() else {
        let word = by.map_or("id", By::word);
        return Err(Refusal::new(format!("{word} argument is missing."), exit::INPUT));
    };
    Ok(Some((Selector { by, text: (*text).to_owned() }, rest)))
}

fn modify(words: &[&str]) -> Result<Command, Refusal> {
    let (temporary, words) = match words {
        ["--temporary", rest @ ..] => (true, rest),
        words => (false, words),
    };
    let Some((profile, rest)) = selector(words)? else {
        return Err(Refusal::new("No connection specified.", exit::INPUT));
    };
    let words = rest.iter().map(|word| (*word).to_owned()).collect();
    Ok(Command::Modify(Modify { profile, temporary, words }))
}

impl Modify {
    /// Makes the changes; the profile is not verified.
    ///
    /// # Errors
    /// What nmcli says. The profile may be changed in part then.
    pub fn apply(&self, profile: &mut Profile) -> Result<(), Refusal> {
        if self.words.is_empty() {
            return Err(Refusal::new("<setting>.<property> argument is missing.", exit::INPUT));
        }
        let words = self.words.iter().map(String::as_str).collect::<Vec<_>>();
        let mut settings = Settings { profile, typed: true, new: false, save: true, other_type: false };
        settings.read(&words)
    }
}

fn add(words: &[&str]) -> Result<Command, Refusal> {
    let mut profile = Profile::default();
    let mut settings =
        Settings { profile: &mut profile, typed: false, new: true, save: true, other_type: false };
    settings.read(words)?;
    let (typed, save) = (settings.typed, settings.save);
    if settings.other_type {
        return Ok(Command::NotOurs);
    }
    if !typed {
        return Err(Refusal::new("'type' argument is required.", exit::INPUT));
    }
    let missing = |name| Refusal::new(format!("'{name}' argument is required."), exit::INPUT);
    let given = |name: &str| words.iter().any(|word| names(word, name));
    // An empty value was given as well; it is found out when the profile is verified.
    if profile.number("ip-tunnel", "mode").value == 0 && !given("mode") {
        return Err(missing("mode"));
    }
    if profile.text("ip-tunnel", "remote").is_none() && !given("remote") {
        return Err(missing("remote"));
    }
    let named = !profile.id().is_empty();
    if !named {
        let id = match profile.interface_name() {
            Some(name) => format!("ip-tunnel-{name}"),
            None => "ip-tunnel".to_owned(),
        };
        put(&mut profile, "connection", "id", &id, "con-name")?;
    }
    Ok(Command::Add(Box::new(Add { profile, named, save })))
}

/// Whether a word is `remote`, or `ip-tunnel.remote` in any spelling.
fn names(word: &str, name: &str) -> bool {
    let word = word.trim_start_matches(['+', '-']);
    match word.split_once('.') {
        None => word == name,
        Some((setting, rest)) => property::find(setting, rest, true)
            .is_ok_and(|found| (found.setting, found.name) == ("ip-tunnel", name)),
    }
}

fn put(profile: &mut Profile, setting: &str, name: &str, value: &str, shown: &str) -> Result<(), Refusal> {
    let input = |error| Refusal::new(error, exit::INPUT);
    let property = property::find(setting, name, true).map_err(input)?;
    profile.put(property, value, shown).map_err(input)
}

/// The words that set properties, read one after the other into a profile.
struct Settings<'p> {
    profile: &'p mut Profile,
    /// `type ip-tunnel` was said.
    typed: bool,
    /// For `add`, where there is a type to say.
    new: bool,
    save: bool,
    /// A type that is not ours was said.
    other_type: bool,
}

impl Settings<'_> {
    fn read(&mut self, words: &[&str]) -> Result<(), Refusal> {
        let mut rest = words;
        while let [word, after @ ..] = rest {
            rest = after;
            if *word == "--" {
                continue;
            }
            let (modifier, name) = match word.split_at_checked(1) {
                Some((sign @ ("+" | "-"), name)) => (Some(sign), name),
                _ => (None, *word),
            };
            let target = self.target(word, name)?;
            let Some((value, after)) = rest.split_first() else {
                return Err(input(format!("value for '{name}' is missing.")));
            };
            rest = after;
            match target {
                Target::Save => {
                    self.save =
                        super::value::flag(value).map_err(|error| input(format!("'save': {error}.")))?
                }
                Target::Type => {
                    let kind = types::find(value).map_err(input)?;
                    self.typed = kind == "ip-tunnel";
                    self.other_type |= !self.typed;
                }
                Target::Property { property, shown, alias } => {
                    self.property(property, &shown, alias, modifier, value)?;
                }
            }
            if self.other_type {
                return Ok(());
            }
        }
        Ok(())
    }

    fn property(
        &mut self,
        property: &'static Property,
        shown: &str,
        alias: bool,
        modifier: Option<&str>,
        value: &str,
    ) -> Result<(), Refusal> {
        if (property.setting, property.name) == ("connection", "type") {
            return Err(match self.new {
                true => input(format!("invalid connection type; {value}.")),
                false => input("failed to modify connection.type: Can not change the connection type."),
            });
        }
        // "*" is any device.
        let any = property.name == "interface-name" && value == "*";
        let value = if any { "" } else { value };
        let adds = alias && matches!(property.name, "addresses");
        let done = match modifier {
            Some("-") => self.profile.take(property, value, shown),
            Some(_) => self.profile.append(property, value, shown),
            None if adds => self.profile.append(property, value, shown),
            None => self.profile.put(property, value, shown),
        };
        done.map_err(input)?;
        if adds {
            // ip4 and ip6 are addresses and the method that goes with them.
            put(self.profile, property.setting, "method", "manual", "method")?;
        }
        Ok(())
    }

    fn target(&self, word: &str, name: &str) -> Result<Target, Refusal> {
        if let Some((setting, rest)) = name.split_once('.') {
            let property = property::find(setting, rest, self.typed).map_err(input)?;
            let shown = format!("{}.{rest}", property.setting);
            return Ok(Target::Property { property, shown, alias: false });
        }
        let (setting, full) = match name {
            "type" if self.new => return Ok(Target::Type),
            "save" if self.new => return Ok(Target::Save),
            "con-name" => ("connection", "id"),
            "ifname" => ("connection", "interface-name"),
            "autoconnect" => ("connection", "autoconnect"),
            "master" => ("connection", "master"),
            "slave-type" => ("connection", "slave-type"),
            "ip4" => ("ipv4", "addresses"),
            "gw4" => ("ipv4", "gateway"),
            "ip6" => ("ipv6", "addresses"),
            "gw6" => ("ipv6", "gateway"),
            "mode" | "local" | "remote" if self.typed => ("ip-tunnel", name),
            "dev" if self.typed => ("ip-tunnel", "parent"),
            _ => return Err(input(format!("invalid <setting>.<property> '{word}'."))),
        };
        let property = property::find(setting, full, true).map_err(input)?;
        Ok(Target::Property { property, shown: format!("{setting}.{full}"), alias: true })
    }
}

enum Target {
    Property { property: &'static Property, shown: String, alias: bool },
    Type,
    Save,
}

fn input(text: impl std::fmt::Display) -> Refusal {
    Refusal::new(text, exit::INPUT)
}

/// The profile of an existing tunnel with what NetworkManager alone knows set: `notes` are
/// `SETTING.PROPERTY=VALUE`, as [`notes`] gives them.
///
/// # Errors
/// A note that is none.
pub fn with_notes<'n>(mut profile: Profile, notes: impl Iterator<Item = &'n str>) -> Result<Profile, String> {
    for note in notes {
        let wrong = || format!("\"{note}\" is no property of a profile with its value");
        let (name, value) = note.split_once('=').ok_or_else(wrong)?;
        let (setting, name) = name.split_once('.').ok_or_else(wrong)?;
        profile.assign(setting, name, value)?;
    }
    Ok(profile)
}

/// What of a profile the tunnel `plain`, made of it and back, does not say: `SETTING.PROPERTY=VALUE`, a line
/// each.
pub fn notes(profile: &Profile, plain: &Profile) -> Vec<String> {
    let mut notes = Vec::new();
    for property in property::TABLE {
        let value = profile.value(property.setting, property.name).value;
        if value != plain.value(property.setting, property.name).value && property.name != "type" {
            let text = match &value {
                Value::Number(number) => number.to_string(),
                other => other.show(property, false),
            };
            notes.push(format!("{}={text}", property.full_name()));
        }
    }
    notes
}
