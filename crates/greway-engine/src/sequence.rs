//! Sequence numbers as Linux understands them (RFC 2890 §2.2, net/ipv4/ip_tunnel.c v6.18).
//!
//! A receiver remembers the number it expects next. A number that is not behind it, by signed 32-bit
//! distance, is taken and sets the expectation one further; a gap of any size is no error. While the
//! expectation is 0 anything is taken, which is how a tunnel starts, and which a counter that wraps
//! passes once every 2³² packets.

use crate::verdict::DropReason;

/// Checks the sequence number of a received packet and moves `expected` on (RX-22).
///
/// # Errors
/// The reason to drop the packet; `expected` is unchanged then.
pub fn accept(expected: &mut u32, received: Option<u32>) -> Result<(), DropReason> {
    let number = received.ok_or(DropReason::SequenceMissing)?;
    let distance = number.wrapping_sub(*expected).cast_signed();
    if *expected != 0 && distance < 0 {
        return Err(DropReason::SequenceLate);
    }
    *expected = number.wrapping_add(1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(numbers: &[u32]) -> Vec<bool> {
        let mut expected = 0;
        numbers.iter().map(|number| accept(&mut expected, Some(*number)).is_ok()).collect()
    }

    #[test]
    fn rx22_late_and_repeated_numbers_fail_and_gaps_pass() {
        assert_eq!(run(&[1001, 1001, 999, 1002, 1010]), [true, false, false, true, true]);
    }

    #[test]
    fn rx22_half_the_circle_is_ahead_the_other_half_behind() {
        assert_eq!(run(&[1000, 1001 + 0x7fff_ffff]), [true, true]);
        assert_eq!(run(&[1000, 1001 + 0x8000_0000]), [true, false]);
    }

    #[test]
    fn rx22_the_counter_wraps() {
        assert_eq!(run(&[u32::MAX - 1, u32::MAX, 0, 1, u32::MAX]), [true, true, true, true, false]);
    }

    #[test]
    fn rx22_an_expectation_of_zero_takes_anything() {
        // After u32::MAX the expectation is 0 again, and the number before it passes once more.
        assert_eq!(run(&[u32::MAX, u32::MAX]), [true, true]);
    }

    #[test]
    fn rx22_no_number_is_missing_and_moves_nothing() {
        let mut expected = 5;
        assert_eq!(accept(&mut expected, None), Err(DropReason::SequenceMissing));
        assert_eq!(accept(&mut expected, Some(4)), Err(DropReason::SequenceLate));
        assert_eq!(expected, 5);
    }
}
