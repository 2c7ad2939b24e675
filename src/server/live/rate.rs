//! How much of something happened in the last second.

use std::time::Duration;

const TENTHS: usize = 10;

/// Counts by tenths of a second; the one that has just begun does not count yet.
#[derive(Default)]
pub struct LastSecond {
    tenths: [u64; TENTHS + 1],
    /// Tenths since the clock's start.
    current: u64,
}

impl LastSecond {
    pub fn add(&mut self, now: Duration, count: usize) {
        self.move_on(now);
        self.tenths[self.current as usize % (TENTHS + 1)] += count as u64;
    }

    pub fn count(&mut self, now: Duration) -> u64 {
        self.move_on(now);
        let begun = self.tenths[self.current as usize % (TENTHS + 1)];
        self.tenths.iter().sum::<u64>() - begun
    }

    fn move_on(&mut self, now: Duration) {
        let latest = (now.as_millis() / 100) as u64;
        let steps = latest.saturating_sub(self.current).min(TENTHS as u64 + 1);
        self.current = self.current.max(latest);
        for age in 0..steps {
            self.tenths[(self.current - age) as usize % (TENTHS + 1)] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_ten_whole_tenths() {
        let ms = Duration::from_millis;
        let mut tokens = LastSecond::default();
        for at in 0..3000 {
            tokens.add(ms(at), 2);
        }
        assert_eq!(tokens.count(ms(3000)), 2000);
        assert_eq!(tokens.count(ms(3499)), 1200);
        assert_eq!(tokens.count(ms(4000)), 0);
        tokens.add(ms(90_000), 5);
        assert_eq!(tokens.count(ms(90_050)), 0);
        assert_eq!(tokens.count(ms(90_100)), 5);
        assert_eq!(tokens.count(ms(91_099)), 5);
        assert_eq!(tokens.count(ms(91_100)), 0);
    }
}
