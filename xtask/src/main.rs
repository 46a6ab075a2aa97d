//! `cargo xtask TASK`: what is done with the project, beside building it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people at a terminal")]

mod arch;
mod bench;
mod dist;
mod ebpf;
mod peers;
mod shell;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  test [--require all] [--only STAGE]
          everything: format, lints, architecture, unit and property tests, tunnels between
          namespaces, real peers, the demo; as root it installs with apt the peers that it needs
  arch    does the dependency graph of the crates hold?
  ebpf [--check | --verify | --out FILE]
          build the eBPF programs; --check: is the committed object of these sources?
          --verify: does building them again give the same bytes?
  dist [--only deb | --only tarball] [--target TRIPLE] [--revision N]
          a Debian package and a static tarball, into target/dist
  bench [PART] [--rounds N] [--quick] [--json FILE] [--record]
          what greway carries and costs, as ratios within a run. As root, on a machine at rest. Without
          a part: all of these but fastpath. --record: into docs/bench
        userspace   both data planes beside the bare link, kernel VXLAN and Open vSwitch: rates, round
                    trips idle and under load, processor time, start-up, loss over a restart; 6 minutes.
                    --peers KEY,... --measures KEY,...: some of it only
        scale       1, 100 and 10,000 tunnels in one daemon: time, memory, and the rate through one of
                    them beside that alone; 4 minutes
        micro       single functions, by criterion; 2 minutes
        fastpath    the fast path, and in a guest whose kernel has GRE; 6 minutes, natively 3
                    (--only native|guest)
";

fn main() -> ExitCode {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let rest = arguments.get(1..).unwrap_or_default();
    let done = match arguments.first().map(String::as_str) {
        Some("test") => test::run(rest),
        Some("arch") => match rest.first() {
            None => arch::run(),
            Some(word) => Err(anyhow::anyhow!("\"{word}\" is unknown: arch takes no words")),
        },
        Some("ebpf") => ebpf::run(rest),
        Some("bench") => bench::run(rest),
        Some("dist") => dist::run(rest),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        other => {
            eprint!("unknown task {:?}\n\n{USAGE}", other.unwrap_or(""));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
