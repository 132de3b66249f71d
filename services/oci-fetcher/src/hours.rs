//! The hours of the day in which a site may download.

use std::{str::FromStr, time::Duration};

const DAY: u32 = 24 * 60;

/// The text is no part of a day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no part of a day: two times in UTC, such as 22:00-05:30; the second may be on the next day")]
pub struct InvalidWindow(String);

/// A part of every day in UTC, from one minute up to another one, which may be on the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first minute of the day that belongs to the window.
    first: u32,
    /// The first minute that no longer does. When it is the same minute, the window is a whole day.
    end: u32,
}

impl Window {
    fn holds(self, minute: u32) -> bool {
        if self.first < self.end {
            (self.first..self.end).contains(&minute)
        } else {
            minute >= self.first || minute < self.end
        }
    }
}

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(raw: &str) -> Result<Self, InvalidWindow> {
        let minute = |text: &str| {
            let (hour, minute) = text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2)?;
            let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok())?;
            let (hour, minute) = (digits(hour)?, digits(minute)?);
            (minute < 60 && (hour < 24 || (hour, minute) == (24, 0))).then_some(hour * 60 + minute)
        };
        let window = raw.split_once('-').and_then(|(first, end)| Some((minute(first)?, minute(end)?)));
        let (first, end) =
            window.filter(|(first, _)| *first < DAY).ok_or_else(|| InvalidWindow(raw.chars().take(50).collect()))?;
        Ok(Self { first, end })
    }
}

/// When a site may download: in each of these parts of the day, or always when there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hours(pub Vec<Window>);

impl Hours {
    fn holds(&self, minute: u32) -> bool {
        self.0.is_empty() || self.0.iter().any(|window| window.holds(minute % DAY))
    }

    /// Returns how long it is until downloads may begin, at this second of the day; zero when they may now.
    pub fn until_open(&self, second: u32) -> Duration {
        self.until(second, true).unwrap_or_default()
    }

    /// Returns how long downloads may go on, at this second of the day; `None` when they may always.
    pub fn until_closed(&self, second: u32) -> Option<Duration> {
        self.until(second, false)
    }

    /// Returns how long it is until the first minute that is open or not, beginning with the minute of this second.
    fn until(&self, second: u32, open: bool) -> Option<Duration> {
        let now = second / 60;
        let found = (now..now + DAY).find(|minute| self.holds(*minute) == open)?;
        Some(Duration::from_secs(u64::from((found * 60).saturating_sub(second))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(windows: &[&str]) -> Hours {
        Hours(windows.iter().map(|window| window.parse().unwrap()).collect())
    }

    fn at(time: &str) -> u32 {
        let numbers: Vec<u32> = time.split(':').map(|number| number.parse().unwrap()).collect();
        numbers[0] * 3600 + numbers[1] * 60 + numbers[2]
    }

    #[test]
    fn downloads_wait_for_their_hours_and_end_with_them() {
        let night = hours(&["22:00-05:30", "12:00-13:00"]);
        for (time, open, closed) in [
            ("21:59:30", 30, 0),
            ("22:00:00", 0, 7 * 3600 + 1800),
            ("23:59:59", 0, 5 * 3600 + 1801),
            ("05:29:59", 0, 1),
            ("05:30:00", 6 * 3600 + 1800, 0),
            ("12:30:00", 0, 1800),
            ("13:00:00", 9 * 3600, 0),
        ] {
            let second = at(time);
            assert_eq!(night.until_open(second).as_secs(), open, "{time}");
            assert_eq!(night.until_closed(second), Some(Duration::from_secs(closed)), "{time}");
        }
    }

    #[test]
    fn windows_that_meet_are_one_and_no_window_is_always() {
        for always in
            [hours(&[]), hours(&["00:00-24:00"]), hours(&["06:00-06:00"]), hours(&["20:00-08:00", "08:00-20:00"])]
        {
            assert_eq!(always.until_open(at("07:00:01")), Duration::ZERO);
            assert_eq!(always.until_closed(at("07:00:01")), None);
        }
        assert_eq!(hours(&["20:00-21:00", "21:00-22:00"]).until_closed(at("20:00:00")).unwrap().as_secs(), 7200);
    }

    #[test]
    fn a_window_is_two_times() {
        for bad in
            ["", "22:00", "22:00-", "24:00-05:00", "22:60-05:00", "2:00-5:00", "22:00-05:00-06:00", "+2:00-03:00"]
        {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }
}
