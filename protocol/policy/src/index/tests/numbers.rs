//! Masks and hashes tell principals, rules and ids apart as well as they can.

use std::hash::{BuildHasher, BuildHasherDefault};

use super::*;

fn mask(sets: impl IntoIterator<Item = u32>) -> Mask {
    Mask::of(sets, Mask::default())
}

#[test]
fn the_first_255_sets_have_a_bit_of_their_own_which_is_never_that_of_everyone() {
    for set in 1..=255 {
        let own = mask([set]);

        assert!(own.meets(&own), "{set}");
        assert!(!own.meets(&Mask::EVERYONE), "{set}");
        assert!(!own.meets(&mask((1..=255).filter(|other| *other != set))), "{set}");
    }
}

#[test]
fn sets_that_share_a_bit_do_not_cancel_each_other() {
    assert_eq!(mask([7, 7 + 255]), mask([7]));
    assert!(mask([7, 7 + 255]).meets(&mask([7])));
}

#[test]
fn a_rule_for_a_group_that_shares_a_bit_with_the_persons_own_speaks_of_others() {
    // Anna is in the first of them.
    let many = Rule { groups: (1..=256).map(|n| GroupId(id(n))).collect(), ..rule(1, Effect::Deny) };
    let off = Rule { enabled: false, ..many };
    let last = Rule { groups: BTreeSet::from([GroupId(id(256))]), ..rule(2, Effect::Allow) };
    let index = Index::compile(snapshot(vec![off, last]), at(NOW));
    let mask = |n| mask([index.sets.groups[&GroupId(id(n))]]);

    assert!(mask(1).meets(&mask(256)));
    assert!(!index.learns(PrincipalId(id(ANNA)), ResourceId(id(WIKI))));
}

#[test]
fn masks_that_meet_in_several_words_meet() {
    for (a, b) in [(1, 65), (1, 129), (1, 193), (65, 129), (65, 193), (129, 193)] {
        assert!(mask([a, b]).meets(&mask([a, b])), "{a} {b}");
    }
}

#[test]
fn each_bit_of_an_id_changes_the_half_of_the_hash_that_finds_its_place() {
    let hash = |n: u128| BuildHasherDefault::<IdHasher>::default().hash_one(PrincipalId(id(n)));
    // Any eight numbers would do.
    for n in (1..=8).map(|n: u128| n.wrapping_mul(0x5851_f42d_4c95_7f2d_1405_7b7e_f767_814f)) {
        for bit in 0..128 {
            assert_ne!(hash(n) as u32, hash(n ^ (1 << bit)) as u32, "{n:x} {bit}");
        }
    }
}

#[test]
fn a_hash_takes_what_comes_in_parts_of_any_length() {
    let hash = |bytes: &[u8]| {
        let mut hasher = IdHasher::default();
        hasher.write(bytes);
        hasher.finish()
    };

    assert_ne!(hash(b"abc"), hash(b"abd"));
    assert_ne!(hash(b"12345678abc"), hash(b"12345678abd"));
    assert_ne!(hash(b"12345678"), hash(b"87654321"));
}
