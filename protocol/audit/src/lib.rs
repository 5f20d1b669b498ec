//! The records of the audit log, and the chain that shows when one was changed, taken out or put in.
//!
//! Each record carries the hash of the one before it in its account. Whoever keeps the hash of the newest record outside
//! (`postern admin audit verify` prints it) can later show that everything up to it is as it was.

#![forbid(unsafe_code)]

use protocol_identity::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the record's layout.
pub const SCHEMA: u32 = 1;
/// What stands in place of the hash before the first record.
pub const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One record: a decision, a grant, a revocation, a change by an administrator, a session. Written as one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its place in the log. Numbers rise and may leave gaps: accounts share them.
    pub sequence: u64,
    /// When, RFC 3339.
    pub at: String,
    /// Who: `admin-token:first`, `gateway:office-1`, `control`.
    pub actor: String,
    /// What: `created`, `updated`, `deleted`, `joined`, `connected`, `disconnected`, `granted`, `denied`, `ended`, …
    pub action: String,
    /// To what kind of thing.
    pub kind: String,
    /// Its id.
    pub id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The rest.
    pub detail: Value,
    /// The hash of the record before it in its account.
    pub previous: String,
    /// Its own hash.
    pub hash: String,
}

/// Why a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The record is not as it was written.
    #[error("record {0} was changed: its hash does not fit what it says")]
    Changed(u64),
    /// The record does not follow the one before it.
    #[error("record {0} does not follow the one before it: something was taken out, put in or moved")]
    Gap(u64),
    /// The record is of a layout that this program does not know.
    #[error("record {0} is of schema {1}, which this program does not know; use a newer one")]
    Schema(u64, u32),
    /// The expected record is not among them.
    #[error("no record has the hash {0}: what was there when it was noted is not there any more")]
    Lost(String),
}

/// A chain that holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// How many records.
    pub records: u64,
    /// How many before them, from before there were hashes.
    pub unchained: u64,
    /// The first one's number.
    pub first: Option<u64>,
    /// The newest one's number.
    pub last: Option<u64>,
    /// The newest one's hash.
    pub head: Option<String>,
}

impl Record {
    /// The hash that the record should have.
    ///
    /// Over its fields in order, each with its length before it, so that no two records read the same.
    pub fn expected_hash(&self) -> String {
        let detail = self.detail.to_string();
        let (id, name) = (self.id.as_deref().unwrap_or("-"), self.name.as_deref().unwrap_or("-"));
        let sequence = self.sequence.to_string();
        let has = format!("{}{}", u8::from(self.id.is_some()), u8::from(self.name.is_some()));
        let fields = [
            "postern audit v1",
            &self.previous,
            &sequence,
            &self.at,
            &self.actor,
            &self.action,
            &self.kind,
            &has,
            id,
            name,
            &detail,
        ];
        let mut text = Vec::new();
        for field in fields {
            text.extend_from_slice(&(field.len() as u64).to_be_bytes());
            text.extend_from_slice(field.as_bytes());
        }
        digest(&text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Checks records one after the other, oldest first. The first one may be any: older ones are forgotten in time.
#[derive(Debug, Default)]
pub struct Verifier {
    held: Held,
    wanted: Option<String>,
    seen: bool,
}

impl Verifier {
    /// A check that also wants to meet a record with this hash.
    pub fn with_head(head: Option<String>) -> Self {
        Self { wanted: head, ..Self::default() }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// Where the chain is broken.
    pub fn take(&mut self, record: &Record) -> Result<(), Broken> {
        if record.schema != SCHEMA {
            return Err(Broken::Schema(record.sequence, record.schema));
        }
        if record.hash.is_empty() && record.previous.is_empty() && self.held.head.is_none() {
            // From before there were hashes.
            self.held.unchained += 1;
            return Ok(());
        }
        if record.hash != record.expected_hash() {
            return Err(Broken::Changed(record.sequence));
        }
        let follows = self.held.head.as_ref().is_none_or(|head| *head == record.previous)
            && self.held.last.is_none_or(|last| last < record.sequence);
        if !follows {
            return Err(Broken::Gap(record.sequence));
        }
        // The noted record may be the last of those that are forgotten by now.
        let noted = self.wanted.as_ref();
        self.seen |= noted.is_some_and(|wanted| *wanted == record.hash || *wanted == record.previous);
        self.held.records += 1;
        self.held.first.get_or_insert(record.sequence);
        self.held.last = Some(record.sequence);
        self.held.head = Some(record.hash.clone());
        Ok(())
    }

    /// All records were taken.
    ///
    /// # Errors
    /// [`Broken::Lost`].
    pub fn finish(self) -> Result<Held, Broken> {
        match self.wanted {
            Some(wanted) if !self.seen => Err(Broken::Lost(wanted)),
            Some(_) | None => Ok(self.held),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(length: u64) -> Vec<Record> {
        let mut previous = BEGINNING.to_owned();
        (1..=length)
            .map(|n| {
                let mut record = Record {
                    schema: SCHEMA,
                    sequence: n * 2,
                    at: "2026-11-24T10:00:00Z".into(),
                    actor: "admin-token:first".into(),
                    action: "created".into(),
                    kind: "policy".into(),
                    id: Some(format!("id-{n}")),
                    name: None,
                    detail: json!({"b": 1, "a": [n]}),
                    previous: previous.clone(),
                    hash: String::new(),
                };
                record.hash = record.expected_hash();
                previous.clone_from(&record.hash);
                record
            })
            .collect()
    }

    fn verify(records: &[Record], head: Option<&str>) -> Result<Held, Broken> {
        let mut verifier = Verifier::with_head(head.map(str::to_owned));
        records.iter().try_for_each(|record| verifier.take(record))?;
        verifier.finish()
    }

    #[test]
    fn an_untouched_chain_holds_from_anywhere_on() {
        let records = chain(5);

        let held = verify(&records, None).unwrap();
        let later = verify(&records[2..], Some(&records[1].hash)).unwrap();

        assert_eq!((held.records, held.first, held.last), (5, Some(2), Some(10)));
        assert_eq!(held.head.as_ref(), Some(&records[4].hash));
        assert_eq!(later.records, 3);
        assert_eq!(verify(&[], None), Ok(Held::default()));
    }

    #[test]
    fn every_change_of_a_field_is_noticed() {
        type Change = fn(&mut Record);
        let changes: [Change; 10] = [
            |record| record.sequence += 1,
            |record| record.at.push('0'),
            |record| record.actor = "control".into(),
            |record| record.action = "deleted".into(),
            |record| record.kind = "group".into(),
            |record| record.id = None,
            |record| record.name = Some("-".into()),
            |record| record.detail = json!({"b": 2, "a": [3]}),
            |record| record.previous = BEGINNING.into(),
            |record| record.hash = BEGINNING.into(),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut records = chain(5);
            change(&mut records[2]);

            let sequence = records[2].sequence;
            assert_eq!(verify(&records, None), Err(Broken::Changed(sequence)), "change {n}");
        }
    }

    #[test]
    fn a_record_that_is_taken_out_moved_or_rewritten_is_noticed() {
        let mut without = chain(5);
        without.remove(2);
        let mut swapped = chain(5);
        swapped.swap(1, 2);
        let mut rewritten = chain(5);
        rewritten[2].action = "deleted".into();
        rewritten[2].hash = rewritten[2].expected_hash();

        assert_eq!(verify(&without, None), Err(Broken::Gap(8)));
        assert_eq!(verify(&swapped, None), Err(Broken::Gap(6)));
        assert_eq!(verify(&rewritten, None), Err(Broken::Gap(8)));
    }

    #[test]
    fn a_log_that_was_cut_or_replaced_does_not_have_the_noted_head() {
        let records = chain(5);
        let head = records[4].hash.clone();

        assert_eq!(verify(&records[..4], Some(&head)), Err(Broken::Lost(head.clone())));
        assert!(verify(&records, Some(&head)).is_ok());
    }

    #[test]
    fn records_without_a_hash_stand_before_the_chain_only() {
        let mut records = chain(4);
        for record in &mut records[..2] {
            record.hash.clear();
            record.previous.clear();
        }
        let mut later = chain(4);
        later[2].hash.clear();
        later[2].previous.clear();

        let held = verify(&records, None).unwrap();

        assert_eq!((held.unchained, held.records), (2, 2));
        assert_eq!(verify(&later, None), Err(Broken::Changed(6)));
    }

    #[test]
    fn a_record_reads_back_from_its_line() {
        let record = chain(1).remove(0);

        let line = serde_json::to_string(&record).unwrap();

        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        assert_eq!(verify(&[Record { schema: 2, ..record }], None), Err(Broken::Schema(2, 2)));
    }
}
