//! What `nmcli connection show` prints (1.42.4), from profiles.

use super::nmcli::{Options, Refusal, exit};
use super::profile::Profile;
use super::property::TABLE;

/// A profile and the device that carries it, if one does.
#[derive(Clone, Debug)]
pub struct Shown<'p> {
    /// The profile.
    pub profile: &'p Profile,
    /// The device that is up.
    pub device: Option<String>,
}

/// The columns of the list.
const COLUMNS: [&str; 15] = [
    "NAME",
    "UUID",
    "TYPE",
    "TIMESTAMP",
    "TIMESTAMP-REAL",
    "AUTOCONNECT",
    "AUTOCONNECT-PRIORITY",
    "READONLY",
    "DBUS-PATH",
    "ACTIVE",
    "DEVICE",
    "STATE",
    "ACTIVE-PATH",
    "SLAVE",
    "FILENAME",
];

/// Columns of names as wide as nmcli makes them.
const NAME_WIDTH: usize = 40;

/// `nmcli connection show`: a list.
///
/// # Errors
/// A field that there is not.
pub fn list(profiles: &[Shown<'_>], options: &Options) -> Result<String, Refusal> {
    let mut columns = Vec::new();
    for field in options.fields.iter().flatten() {
        match field.to_ascii_lowercase().as_str() {
            "all" => columns.extend(COLUMNS),
            "common" => columns.extend(["NAME", "UUID", "TYPE", "DEVICE"]),
            lower => {
                let known = COLUMNS.into_iter().find(|column| column.to_ascii_lowercase() == lower);
                columns.push(known.ok_or_else(|| {
                    let allowed = COLUMNS.join(",");
                    Refusal::new(format!("invalid field '{field}'; allowed fields: {allowed}."), exit::INPUT)
                })?);
            }
        }
    }
    if options.fields.is_none() {
        columns.extend(["NAME", "UUID", "TYPE", "DEVICE"]);
    }
    let mut profiles = profiles.to_vec();
    // Those that are up first.
    profiles.sort_by_key(|shown| (shown.device.is_none(), shown.profile.id()));
    let rows = profiles.iter().map(|shown| columns.iter().map(|column| cell(shown, column)).collect());
    let rows = rows.collect::<Vec<Vec<Option<String>>>>();
    Ok(if options.multiline == Some(true) {
        let lines = rows.iter().flat_map(|row| columns.iter().zip(row));
        lines.map(|(column, cell)| line(column, cell.as_deref().unwrap_or_default(), options)).collect()
    } else if options.terse {
        let escaped = |cell: &Option<String>| {
            let text = cell.clone().unwrap_or_default();
            if options.no_escape { text } else { text.replace('\\', "\\\\").replace(':', "\\:") }
        };
        rows.iter()
            .map(|row| format!("{}\n", row.iter().map(escaped).collect::<Vec<_>>().join(":")))
            .collect()
    } else if rows.is_empty() {
        String::new()
    } else {
        table(&columns, &rows)
    })
}

fn cell(shown: &Shown<'_>, column: &str) -> Option<String> {
    let profile = shown.profile;
    let yes_or_no = |yes| Some(if yes { "yes" } else { "no" }.to_owned());
    match column {
        "NAME" => Some(profile.id()),
        "UUID" => profile.uuid(),
        "TYPE" => Some("ip-tunnel".to_owned()),
        "TIMESTAMP" | "AUTOCONNECT-PRIORITY" => Some("0".to_owned()),
        "TIMESTAMP-REAL" => Some("never".to_owned()),
        "AUTOCONNECT" => yes_or_no(profile.autoconnect()),
        "READONLY" => yes_or_no(false),
        "ACTIVE" => yes_or_no(shown.device.is_some()),
        "DEVICE" => shown.device.clone(),
        "STATE" => shown.device.as_ref().map(|_| "activated".to_owned()),
        _ => None,
    }
}

fn table(columns: &[&str], rows: &[Vec<Option<String>>]) -> String {
    let text = |cell: &Option<String>| {
        cell.clone().filter(|cell| !cell.is_empty()).unwrap_or_else(|| "--".to_owned())
    };
    let width = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| text(cell).chars().count());
        cells.chain([columns[index].len()]).max().unwrap_or_default()
    };
    let widths = (0..columns.len()).map(width).collect::<Vec<_>>();
    let row = |cells: Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{} \n", padded.collect::<Vec<_>>().join("  "))
    };
    let head = row(columns.iter().map(|column| (*column).to_owned()).collect());
    rows.iter().fold(head, |out, cells| out + &row(cells.iter().map(text).collect()))
}

/// `NAME:   VALUE`, or what terse output makes of it.
fn line(name: &str, value: &str, options: &Options) -> String {
    if options.values_only {
        return format!("{value}\n");
    }
    if options.terse {
        return format!("{name}:{value}\n");
    }
    let value = if value.is_empty() { "--" } else { value };
    format!("{:NAME_WIDTH$}{value}\n", format!("{name}:"))
}

/// `nmcli connection show NAME`: the profile's properties.
///
/// # Errors
/// A field that there is not.
pub fn details(shown: &Shown<'_>, options: &Options) -> Result<String, Refusal> {
    let mut out = String::new();
    let mut wanted = Vec::new();
    for field in options.fields.iter().flatten() {
        let lower = field.to_ascii_lowercase();
        let rows = TABLE.iter().filter(|row| {
            lower == row.setting
                || lower == row.full_name()
                || matches!(lower.as_str(), "all" | "profile" | "common")
        });
        let before = wanted.len();
        wanted.extend(rows);
        if wanted.len() == before && !matches!(lower.as_str(), "general" | "ip4" | "ip6" | "active") {
            return Err(invalid_field(field));
        }
    }
    if options.fields.is_none() {
        wanted.extend(TABLE);
    }
    let explicit = |setting: &str| {
        options.fields.iter().flatten().any(|field| field.to_ascii_lowercase().starts_with(setting))
    };
    for row in wanted {
        let given = shown.profile.value(row.setting, row.name);
        let present = shown.profile.properties().any(|(property, _)| property.setting == row.setting);
        let always = matches!(row.setting, "connection" | "ipv4" | "ipv6" | "ip-tunnel" | "proxy");
        // A setting that the profile has not, and the one property that is shown only when it is set.
        if !always && !present || row.name == "mud-url" && !explicit("connection.mud-url") {
            continue;
        }
        let value = given.value.show(row, !options.terse);
        out += &line(&row.full_name(), if value == "--" && options.terse { "" } else { &value }, options);
    }
    let general = options.fields.is_none() || explicit("general") || explicit("all") || explicit("active");
    if let (true, Some(device)) = (general, &shown.device) {
        for (name, value) in [
            ("GENERAL.NAME", shown.profile.id()),
            ("GENERAL.UUID", shown.profile.uuid().unwrap_or_default()),
            ("GENERAL.DEVICES", device.clone()),
            ("GENERAL.IP-IFACE", device.clone()),
            ("GENERAL.STATE", "activated".to_owned()),
        ] {
            out += &line(name, &value, options);
        }
    }
    Ok(out)
}

fn invalid_field(field: &str) -> Refusal {
    let setting = field.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let known = TABLE.iter().filter(|row| row.setting == setting).map(super::Property::full_name);
    let known = known.collect::<Vec<_>>();
    let text = if known.is_empty() {
        let mut settings = TABLE.iter().map(|row| row.setting).collect::<Vec<_>>();
        settings.dedup();
        format!(
            "invalid field '{field}'; allowed fields: {} and GENERAL, or profile,active.",
            settings.join(",")
        )
    } else {
        format!("'connection show': invalid field '{field}'; allowed fields: {}", known.join(","))
    };
    Refusal::new(text, exit::INPUT)
}
