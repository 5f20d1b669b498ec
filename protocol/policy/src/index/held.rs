//! The sets that a principal is in.

/// So many are compared with one instruction or two.
const WIDE: usize = 8;

/// Numbers of sets, in no order. Zero is the number of none, and stands where there is room.
#[derive(Debug, Default, Clone)]
pub(super) struct Held {
    /// Most principals are in no more than these.
    first: [u32; WIDE],
    rest: Vec<[u32; WIDE]>,
}

impl Held {
    /// Takes a set in, if it is not there.
    pub fn insert(&mut self, set: u32) {
        if self.contains(set) {
            return;
        }
        if let Some(room) = self.places().find(|place| **place == 0) {
            *room = set;
            return;
        }
        let mut more = [0; WIDE];
        more[0] = set;
        // There is one for each principal: room for more than one would be wasted many times.
        self.rest.reserve_exact(1);
        self.rest.push(more);
    }

    /// Takes a set out.
    pub fn remove(&mut self, set: u32) {
        for place in self.places().filter(|place| **place == set) {
            *place = 0;
        }
    }

    fn places(&mut self) -> impl Iterator<Item = &mut u32> {
        self.first.iter_mut().chain(self.rest.iter_mut().flatten())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.first.iter().chain(self.rest.iter().flatten()).copied().filter(|set| *set != 0)
    }

    /// Whether a set is among them.
    pub fn contains(&self, set: u32) -> bool {
        self.holds_any(&[set])
    }

    /// Whether any of these, none of which is zero, is among them. Every pair is compared, many at once: a merge of two
    /// ordered lists would compare fewer and be slower, because no processor guesses its way through it.
    pub fn holds_any(&self, sets: &[u32]) -> bool {
        any(&self.first, sets) || self.rest.iter().any(|own| any(own, sets))
    }
}

#[inline]
fn any(own: &[u32; WIDE], sets: &[u32]) -> bool {
    let mut equal = [0u32; WIDE];
    for set in sets {
        for (equal, own) in equal.iter_mut().zip(own) {
            *equal |= u32::from(own == set);
        }
    }
    equal.iter().fold(0, |all, equal| all | equal) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_there_until_it_is_taken_out() {
        let mut held = Held::default();
        for set in 1..=20 {
            held.insert(set);
            held.insert(set);
        }
        assert_eq!(held.iter().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());

        for set in [1, 8, 9, 20, 99] {
            held.remove(set);
        }
        held.insert(30);

        let mut left: Vec<_> = held.iter().collect();
        left.sort_unstable();
        assert_eq!(left, [2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 30]);
        assert!(held.contains(19) && held.contains(30) && !held.contains(20) && !held.contains(8));
    }

    #[test]
    fn one_in_common_is_enough_wherever_it_stands() {
        let mut held = Held::default();
        (1..=20).for_each(|set| held.insert(set));

        assert!(held.holds_any(&[100, 1, 101]));
        assert!(held.holds_any(&[100, 101, 20]));
        assert!(!held.holds_any(&[100, 101, 21]));
        assert!(!held.holds_any(&[]));
        assert!(!Held::default().holds_any(&[1, 2]));
    }
}
