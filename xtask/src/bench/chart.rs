//! The figures as a picture: a panel a measure, a bar a peer.

use super::measures::Measure;
use super::peers::Peer;
use super::results::{Cell, Results};
use super::svg::{self, Bar, Colour, Panel};

/// Draws them all, but for the measures of which there is no figure at all.
pub(super) fn of(results: &Results, title: &str, about: &str) -> String {
    let mut measures: Vec<Measure> = Vec::new();
    for cell in results.cells.iter().filter(|cell| !cell.rounds.is_empty()) {
        if !measures.contains(&cell.measure) {
            measures.push(cell.measure);
        }
    }
    let panels: Vec<Panel> = measures.into_iter().map(|measure| panel(results, measure)).collect();
    svg::draw(title, &format!("{about}; lines: the range of the rounds"), &panels)
}

fn panel(results: &Results, measure: Measure) -> Panel {
    let cells = results.cells.iter().filter(|cell| cell.measure == measure);
    let bars = cells.map(|cell| bar(results, cell)).collect();
    let better = if measure.is_price() { "less is better" } else { "more is better" };
    Panel { title: measure.title().to_owned(), note: better.to_owned(), bars }
}

fn bar(results: &Results, cell: &Cell) -> Bar {
    let Cell { measure, peer, .. } = cell;
    let spread = cell.spread().filter(|_| cell.why_not.is_none());
    let text = match spread {
        None => "no figure".to_owned(),
        Some(spread) => {
            let figure = measure.write(spread.median);
            let beside = results.compare(*measure, *peer, Peer::Bare).filter(|_| *peer != Peer::Bare);
            match beside {
                Some(beside) if measure.is_ratio() => {
                    format!("{figure}, × {}", measure.write_comparison(beside.median))
                }
                Some(beside) => format!("{figure}, {}", measure.write_comparison(beside.median)),
                None => figure,
            }
        }
    };
    let colour = match peer {
        Peer::Bare | Peer::BareAgain => Colour::Reference,
        Peer::Userspace | Peer::UserspaceCsum | Peer::Ebpf => Colour::Ours,
        Peer::Vxlan | Peer::IpGre | Peer::Ovs => Colour::Other,
    };
    let value = spread.map(|spread| [spread.median, spread.least, spread.most]);
    Bar { label: peer.title().to_owned(), value, text, colour }
}

#[cfg(test)]
mod unit {
    use super::super::results::Place;
    use super::*;

    #[test]
    fn a_measure_is_a_panel_with_figures_beside_the_link() {
        let measures = [Measure::Tcp, Measure::RoundTrip, Measure::Udp64];
        let peers = [Peer::Bare, Peer::Ovs, Peer::Userspace];
        let mut results = Results::new(Place::Native, &measures, &peers, &[Peer::Bare]);
        for (peer, rate, time) in [(Peer::Bare, 10e9, 6e3), (Peer::Userspace, 4e9, 20e3)] {
            results.add(Measure::Tcp, peer, Ok(rate));
            results.add(Measure::RoundTrip, peer, Ok(time));
        }
        results.skip(Peer::Ovs, "not on this machine: no Open vSwitch");
        let svg = of(&results, "Both", "greway 1");
        assert!(svg.contains(">4.00 Gbit/s, × 0.40</text>"), "{svg}");
        assert!(svg.contains(">20.0 µs, +14.0 µs</text>"), "{svg}");
        assert_eq!(svg.matches(">no figure</text>").count(), 2, "{svg}");
        assert!(!svg.contains("UDP"), "nobody has a figure of it: {svg}");
        assert_eq!(
            (svg.matches("class=\"ours\"").count(), svg.matches("class=\"reference\"").count()),
            (2, 2)
        );
    }
}
