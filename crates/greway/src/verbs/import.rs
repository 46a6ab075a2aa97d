//! `greway import`: a tunnel of another dialect as greway's TOML. Nothing is guessed: what a file says and greway
//! cannot honour is refused with its place, and then nothing is written.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use greway_control::api::Request;
use greway_control::location::Location;
use greway_dialects::networkmanager::keyfile;
use greway_dialects::{Diagnostic, Parsed, ifcfg, iproute2, native, shell};
use greway_spec::TunnelSpec;

use crate::output;
use crate::sources;
use crate::tunnel_file;

/// `greway import`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ImportArgs {
    /// What the source is written in
    #[arg(value_enum)]
    pub(crate) dialect: Dialect,
    /// A file, - for stdin; with `ip` also the commands themselves, as one argument
    pub(crate) source: String,
    /// Let bash read an ifcfg file that is more than plain assignments: this runs the file
    #[arg(long)]
    pub(crate) eval: bool,
    /// Print the TOML, write nothing
    #[arg(long, conflicts_with_all = ["output", "up"])]
    pub(crate) stdout: bool,
    /// Write this file instead of /etc/greway/tunnels.d/NAME.toml
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write over the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Bring the tunnel up
    #[arg(long)]
    pub(crate) up: bool,
}

/// What can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dialect {
    /// ifcfg-NAME with TYPE=GRE or GRE6, and the route- and rule- files beside it
    Ifcfg,
    /// NetworkManager's keyfile of type ip-tunnel
    #[value(alias = "keyfile")]
    Nm,
    /// Commands of iproute2: ip tunnel add …, ip addr add …
    Ip,
    /// greway's own
    Toml,
}

/// A tunnel that was read.
struct Imported {
    spec: TunnelSpec,
    onboot: bool,
}

const EXAMPLES: &str = "\
Examples:
  greway import ifcfg /root/ifcfg-tun0              the file and route-tun0 beside it, as TOML
  greway import nm /etc/NetworkManager/system-connections/tun0.nmconnection --stdout
  greway import ip 'ip tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100' --up";

/// Runs the verb.
pub(crate) fn run(args: &ImportArgs, location: &Location) -> anyhow::Result<ExitCode> {
    if args.eval && args.dialect != Dialect::Ifcfg {
        bail!("--eval is for ifcfg files, which are shell; {:?} is not", args.dialect);
    }
    let Imported { spec, onboot } = read(args)?;
    if let Err(not_yet) = spec.carried() {
        match args.up {
            true => return Err(not_yet.into()),
            false => output::note(&format!("{not_yet}: `greway up` will refuse it")),
        }
    }
    let from = match args.dialect {
        _ if args.source == "-" => "stdin".to_owned(),
        Dialect::Ip if !Path::new(&args.source).is_file() => "ip commands".to_owned(),
        _ => args.source.clone(),
    };
    let text = tunnel_file::text_of(&spec, onboot, &[format!("Imported from {from} by greway.")]);
    if args.stdout {
        output::raw(text.as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    let name = spec.name.as_str();
    let own = tunnel_file::path_of(name);
    let path = args.output.clone().unwrap_or_else(|| own.clone());
    if path.symlink_metadata().is_ok() && !args.force {
        bail!("{} exists; --force writes over it", path.display());
    }
    // A file elsewhere defines nothing by itself.
    if path == own {
        tunnel_file::check_free(name, &own, args.force).map_err(|taken| {
            match is_read_already(&args.source) {
                true => anyhow!("{taken} (greway reads that file as it is: `greway up {name}`)"),
                false => taken,
            }
        })?;
    }
    tunnel_file::write(&path, &text, args.force)?;
    output::line(&format!("wrote {}", path.display()));
    if args.up {
        up(spec, &path, location)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a file lies where `greway up` finds it.
fn is_read_already(source: &str) -> bool {
    let own = fs::canonicalize(source);
    own.is_ok_and(|own| {
        sources::all()
            .iter()
            .any(|definition| fs::canonicalize(&definition.path).is_ok_and(|path| path == own))
    })
}

fn up(mut spec: TunnelSpec, path: &Path, location: &Location) -> anyhow::Result<()> {
    spec.origin = tunnel_file::origin(path);
    let name = spec.name.clone();
    let mut client = super::connect(location)?;
    let request = Request::Up { spec: Box::new(spec), dry_run: false };
    let actions = super::change(&mut client, location, &request)
        .with_context(|| format!("{} is written, and {name} is not up", path.display()))?;
    if actions.is_empty() {
        output::line(&format!("{name} is up already; nothing to do"));
    }
    for action in actions {
        output::line(&action);
    }
    Ok(())
}

fn read(args: &ImportArgs) -> anyhow::Result<Imported> {
    let path = Path::new(&args.source);
    if args.dialect == Dialect::Ifcfg && args.source != "-" {
        if args.eval {
            return evaluated(path);
        }
        // With the files that belong to it.
        let file = sources::read_ifcfg_file(path).map_err(|refused| {
            let text = fs::read_to_string(path).unwrap_or_default();
            match ifcfg::parse(&text, &args.source).is_err() && !text.is_empty() {
                true => anyhow!(
                    "{refused}\nif the file is right for bash: greway import ifcfg --eval {}",
                    shell::word(&args.source)
                ),
                false => refused.into(),
            }
        })?;
        for warning in &file.warnings {
            output::note(warning);
        }
        return Ok(Imported { spec: file.spec, onboot: file.onboot });
    }
    if args.eval {
        bail!("--eval needs the name of a file");
    }
    let (text, shown) = text_of(args)?;
    let parse = match args.dialect {
        Dialect::Ifcfg => ifcfg::parse,
        Dialect::Nm => keyfile::parse,
        Dialect::Ip => iproute2::parse_commands,
        Dialect::Toml => native::parse,
    };
    finish(parse(&text, &shown), &text)
}

fn text_of(args: &ImportArgs) -> anyhow::Result<(String, String)> {
    let path = Path::new(&args.source);
    if args.source == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
        return Ok((text, "stdin".to_owned()));
    }
    if args.dialect == Dialect::Ip && !path.is_file() && args.source.contains(char::is_whitespace) {
        return Ok((format!("{}\n", args.source), "argument".to_owned()));
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((text, args.source.clone()))
}

fn finish(parsed: Result<Parsed, Diagnostic>, text: &str) -> anyhow::Result<Imported> {
    let explain = |wrong: Diagnostic| anyhow!(wrong.render(text).trim_end().to_owned());
    let parsed = parsed.map_err(explain)?;
    for warning in &parsed.warnings {
        output::note(&warning.to_string());
    }
    let onboot = parsed.onboot;
    Ok(Imported { spec: parsed.into_spec().map_err(explain)?, onboot })
}

/// Runs an ifcfg file in bash, in an empty environment, and reads what it assigned.
fn evaluated(path: &Path) -> anyhow::Result<Imported> {
    let absolute = fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    output::note(&format!("bash runs {} now, as --eval says", path.display()));
    let values = bash(&absolute)?;
    let device = values.get("DEVICE").cloned().unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let suffix = name.strip_prefix("ifcfg-").unwrap_or(&name);
    let mut beside = Vec::new();
    for companion in ifcfg::companions(&device, suffix) {
        let path = absolute.with_file_name(companion);
        if path.is_file() {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            beside.push((path.display().to_string(), text));
        }
    }
    let texts = beside.iter().map(|(file, text)| ifcfg::Text { file, text }).collect::<Vec<_>>();
    let parsed = ifcfg::parse_values(&values, &path.display().to_string(), &texts, &sources::tables());
    let text = match &parsed {
        Err(wrong) => {
            beside.iter().find(|(file, _)| *file == wrong.file).map_or("", |(_, text)| text.as_str())
        }
        Ok(_) => "",
    };
    finish(parsed, text)
}

/// What a file assigns, by bash's own account.
fn bash(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    // The marker keeps what the file itself prints apart from the list.
    const MARK: &[u8] = b"\0greway\0";
    let script = "set -a; . \"$1\" || exit; printf '\\0greway\\0'; exec env -0";
    let output = Command::new("/bin/bash")
        .args(["--noprofile", "--norc", "-c", script, "bash"])
        .arg(path)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run bash")?;
    if !output.status.success() {
        bail!("{}: bash ended with {}", path.display(), output.status);
    }
    let mark = output.stdout.windows(MARK.len()).position(|window| window == MARK);
    let mark = mark.ok_or_else(|| anyhow!("{}: bash ended before the end of the file", path.display()))?;
    // What bash sets by itself.
    let own = |name: &str| matches!(name, "PWD" | "OLDPWD" | "SHLVL" | "_");
    let list = &output.stdout[mark + MARK.len()..];
    let pairs = list.split(|byte| *byte == 0).filter_map(|pair| {
        let pair = String::from_utf8_lossy(pair).into_owned();
        pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    });
    Ok(pairs.filter(|(name, _)| !own(name)).collect())
}
