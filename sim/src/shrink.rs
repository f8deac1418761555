//! The smallest part of a list that still fails.

/// Leaves out elements of `whole`, which fails, for as long as what is left fails, and returns that: then no element can be left out,
/// nor two neighbours. `fails` is asked of parts only; when it is no longer willing to, it may say no.
pub fn shrink<T: Clone>(whole: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut left = whole.to_vec();
    let mut length = (left.len().next_power_of_two() / 2).max(1);
    while length > 0 {
        let mut is_smaller = false;
        // From the end: later elements need the earlier ones more often than the other way round.
        let mut end = left.len();
        while end > 0 {
            let start = end.saturating_sub(length);
            let part = [&left[..start], &left[end..]].concat();
            if fails(&part) {
                left = part;
                is_smaller = true;
                end = start;
            } else if start == 0 {
                break;
            } else {
                // Runs overlap, so that any two neighbours are in one.
                end -= length.div_ceil(2);
            }
        }
        // Something less may make place for more.
        length = if length <= 2 && is_smaller { 2 } else { length / 2 };
    }
    left
}

#[cfg(test)]
mod tests {
    use super::shrink;

    fn check(whole: &[u32], needed: &[u32]) {
        let fails = |part: &[u32]| needed.iter().all(|element| part.contains(element));
        assert_eq!(shrink(whole, fails), needed, "of {whole:?}");
    }

    #[test]
    fn what_is_needed_is_left() {
        let whole: Vec<u32> = (0..37).collect();
        for needed in [&[][..], &[0], &[36], &[5, 6], &[0, 17, 36], &[1, 2, 3, 20, 21, 22]] {
            check(&whole, needed);
        }
        check(&[7], &[7]);
        check(&[7], &[]);
        check(&[], &[]);
    }

    #[test]
    fn what_goes_only_with_another_goes_with_it() {
        // Either none of the two, or both: like something that is made and removed.
        let fails = |part: &[u32]| part.contains(&9) && part.contains(&3) == part.contains(&4);
        assert_eq!(shrink(&[1, 2, 3, 4, 9], fails), [9]);
    }
}
