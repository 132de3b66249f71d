//! How an answer that is too small for all is shared. No bus, no clock.

/// The most that one of those who have so much may have, so that all fit into `whole`: whoever has less keeps what it has, and
/// the others have equal shares of what is left. There is no limit when everything fits.
pub fn fair_share(sizes: impl IntoIterator<Item = usize>, whole: usize) -> usize {
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_unstable();
    let (mut left, mut others) = (whole, sizes.len());
    for size in sizes {
        let share = left / others;
        if size > share {
            return share;
        }
        (left, others) = (left - size, others - 1);
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_little_keeps_it_and_the_others_share_the_rest() {
        assert_eq!(fair_share([], 0), usize::MAX);
        assert_eq!(fair_share([3, 5, 2], 10), usize::MAX);
        assert_eq!(fair_share([3, 900, 2], 10), 5);
        assert_eq!(fair_share([3, 900, 2, 800], 15), 5);
        assert_eq!(fair_share([7, 7], 0), 0);
    }
}
