//! Two machines on one cable, with the guide's outer addresses.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Image, Machine, MachineOptions, Nic, Say};
use crate::Error;
use crate::guide::OUTER;

/// Two machines, `linux1` and `linux2`, whose eth0 are the two ends of one cable. eth0 has the guide's outer address
/// from /etc/network/interfaces, as on a Debian server, with a route to the other's.
#[derive(Debug)]
pub struct Pair {
    /// linux1 and linux2; dropped before the cable.
    pub machines: [Machine; 2],
    _cable: Cable,
}

impl Pair {
    /// Boots both, and returns when they reach each other. A boot that does not end in time is tried once more.
    ///
    /// `options` is for both but for name and NICs: those given come after eth0.
    ///
    /// # Errors
    /// Those of starting, of booting within the time, and of setting eth0 up.
    pub fn boot(image: &Image, options: &MachineOptions, within: Duration, say: Say) -> Result<Self, Error> {
        match Self::boot_once(image, options, within, say) {
            Err(error @ Error::TimedOut { .. }) => {
                say(&format!("once more, since {error}"));
                Self::boot_once(image, options, within, say)
            }
            result => result,
        }
    }

    fn boot_once(image: &Image, options: &MachineOptions, within: Duration, say: Say) -> Result<Self, Error> {
        let cable = Cable::new()?;
        say("booting two machines: 10 to 20 s");
        let start = |number: u8| {
            let mut options = options.clone();
            options.name = format!("linux{number}");
            options.nics.insert(0, cable.end(number));
            Machine::start(image, &options)
        };
        let mut pair = Self { machines: [start(1)?, start(2)?], _cable: cable };
        pair.booted(within, say)?;
        for (here, machine) in pair.machines.iter_mut().enumerate() {
            let text = interfaces(here);
            machine.put("/etc/network/interfaces", 0o644, text.as_bytes())?;
            machine.run("ifup eth0")?;
        }
        let [one, two] = &mut pair.machines;
        one.run(&format!("ping -q -c 1 -W 10 {}", OUTER[1]))?;
        two.run(&format!("ping -q -c 1 -W 10 {}", OUTER[0]))?;
        Ok(pair)
    }

    /// Waits until both have booted; says how long each took.
    ///
    /// # Errors
    /// Those of [`Machine::booted`].
    pub fn booted(&mut self, within: Duration, say: Say) -> Result<(), Error> {
        let start = Instant::now();
        self.each(|machine| {
            machine.booted(within, say)?;
            say(&format!("{} is up after {:.1} s", machine.name(), start.elapsed().as_secs_f32()));
            Ok(())
        })
        .map(drop)
    }

    /// Reboots both in order and waits for them.
    ///
    /// # Errors
    /// Those of [`Machine::reboot`] and [`Machine::booted`].
    pub fn reboot(&mut self, within: Duration, say: Say) -> Result<(), Error> {
        self.each(Machine::reboot)?;
        self.booted(within, say)
    }

    /// Does the same on both at once; gives both results.
    ///
    /// # Errors
    /// The first error, when both are done.
    pub fn each<T: Send>(
        &mut self,
        work: impl Fn(&mut Machine) -> Result<T, Error> + Sync,
    ) -> Result<[T; 2], Error> {
        let [one, two] = &mut self.machines;
        let (first, second) = thread::scope(|scope| {
            let other = scope.spawn(|| work(two));
            (work(one), other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        Ok([first?, second?])
    }
}

fn interfaces(here: usize) -> String {
    let (address, other) = (OUTER[here], OUTER[1 - here]);
    format!(
        "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n\taddress {address}/24\n\t\
         up ip route replace {other}/32 dev eth0\n"
    )
}

/// The directory of the two sockets.
#[derive(Debug)]
struct Cable(PathBuf);

impl Cable {
    fn new() -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("greway-cable-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).map_err(Error::system(directory.display().to_string(), "create it"))?;
        Ok(Self(directory))
    }

    fn end(&self, number: u8) -> Nic {
        let [here, there] = [number, 3 - number].map(|number| self.0.join(number.to_string()));
        Nic { here, there, number }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
