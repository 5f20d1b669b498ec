//! Which country an address is in, out of small databases written here.

use super::*;

#[path = "database.rs"]
mod database;

use database::database;

/// The countries of these networks.
pub(crate) fn countries(networks: &[(&str, &str)]) -> Countries {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("countries.mmdb");
    std::fs::write(&file, database(networks)).unwrap();
    Countries::open(&file).unwrap()
}

fn of(countries: &Countries, address: &str) -> Option<String> {
    countries.of(address.parse().unwrap())
}

#[test]
fn an_address_is_in_the_country_of_its_network() {
    let countries =
        countries(&[("198.51.100.0/24", "DE"), ("203.0.113.0/25", "FR"), ("2001:db8::/32", "IT")]);

    assert_eq!(of(&countries, "198.51.100.7").as_deref(), Some("DE"));
    assert_eq!(of(&countries, "::ffff:198.51.100.7").as_deref(), Some("DE"));
    assert_eq!(of(&countries, "203.0.113.127").as_deref(), Some("FR"));
    assert_eq!(of(&countries, "203.0.113.128"), None);
    assert_eq!(of(&countries, "2001:db8::1").as_deref(), Some("IT"));
    assert_eq!(of(&countries, "10.0.0.1"), None);
    assert_eq!(of(&Countries::default(), "198.51.100.7"), None);
}

#[test]
fn a_file_that_is_no_database_is_refused_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("countries.mmdb");

    let missing = Countries::open(&file).unwrap_err();
    std::fs::write(&file, "network,country\n").unwrap();
    let other = Countries::open(&file).unwrap_err();

    assert!(matches!(missing, CountriesError::File(..)));
    assert!(matches!(other, CountriesError::Format(..)));
    assert!(other.to_string().contains("countries.mmdb"));
}

#[test]
fn a_file_that_was_replaced_is_read_anew() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("countries.mmdb");
    std::fs::write(&file, database(&[("198.51.100.0/24", "DE")])).unwrap();
    let mut countries = Countries::open(&file).unwrap();
    assert!(countries.renew().is_none());
    let mut later = SystemTime::now();
    let mut replace = |bytes: &[u8]| {
        later += std::time::Duration::from_secs(5);
        std::fs::write(&file, bytes).unwrap();
        std::fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
    };

    replace(b"half of it");
    let crooked = (countries.renew(), countries.renew());
    assert!(matches!(crooked, (Some(Err(CountriesError::Format(..))), None)));
    assert_eq!(of(&countries, "198.51.100.7").as_deref(), Some("DE"));
    replace(&database(&[("198.51.100.0/24", "FR")]));
    countries.renew().unwrap().unwrap();

    assert_eq!(of(&countries, "198.51.100.7").as_deref(), Some("FR"));
    assert!(countries.renew().is_none());
}
