//! The store with its followers as inboxes, over storage that commits at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actors_runtime::{Full, Intensity, LaneKind, Reply, Restart, Row, Universe};
use jiff::Timestamp;
use protocol_control::FlowBatch;
use protocol_identity::{AccountId, GatewayId, TokenHash, TokenId};

use crate::directory::Directory;
use crate::grant_office::{self, GrantOffice};
use crate::keys::ONLY;
use crate::model::{Account, Key, Kind, Object, Token};
use crate::relay_registry::RelayRegistry;
use crate::storage::{
    Action, Change, Committed, Everything, FlowFilter, LogRow, Page, Pending, Storage, StorageError,
    StoredFlow, Write,
};
use crate::store::{Command, Store};
use crate::testing::write;

const ROWS: &[Row<()>] =
    &[row("Store", 64), row("RelayRegistry", 64), row("Directory", 64), row("GrantOffice", 2)];

const fn row(kind: &'static str, mailbox: usize) -> Row<()> {
    Row {
        kind,
        parent: "-",
        each: "test",
        lane: LaneKind::Control,
        mailbox,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: Intensity { restarts: 5, within: Duration::from_secs(60) },
        start: None,
    }
}

/// Commits at once and counts.
#[derive(Default)]
struct Counting(AtomicU64);

macro_rules! refused {
    ($($name:ident($($arg:ty),*) -> $out:ty;)*) => {$(
        fn $name(&self, $(_: $arg),*) -> Pending<'_, $out> {
            Box::pin(std::future::ready(Err(StorageError::Busy)))
        }
    )*};
}

impl Storage for Counting {
    fn commit_all(&self, writes: Vec<Write>) -> Pending<'_, Vec<Result<Committed, StorageError>>> {
        let commit = |write: Write| {
            let sequence = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            let changes = vec![Change { sequence, action: Action::Noted }];
            Ok(Committed { account: write.account, changes })
        };
        Box::pin(std::future::ready(Ok(writes.into_iter().map(commit).collect())))
    }

    refused! {
        commit(Write) -> Committed;
        everything(AccountId) -> Everything;
        find(AccountId, Kind, Key) -> Option<Object>;
        list(AccountId, Kind, Page) -> Vec<Object>;
        log(AccountId, u64, usize) -> Vec<LogRow>;
        authenticate(TokenHash) -> Option<(Account, Token)>;
        touch(AccountId, BTreeSet<TokenId>, Timestamp) -> ();
        create_account(String, TokenHash, Timestamp) -> Account;
        accounts() -> Vec<Account>;
        trim_log(u64) -> u64;
        store_flows(AccountId, GatewayId, FlowBatch, Timestamp) -> bool;
        flows(AccountId, FlowFilter) -> Vec<StoredFlow>;
        trim_flows(AccountId, Timestamp, usize) -> u64;
    }
}

#[test]
fn followers_hear_of_every_commit_in_order_even_when_they_had_no_room() {
    let account = AccountId::fresh();
    let universe = Universe::new(ROWS);
    let office = universe.inbox::<GrantOffice>("default");
    let directory = universe.inbox::<Directory>(ONLY);
    let _registry = universe.inbox::<RelayRegistry>(ONLY);
    let storage: Arc<dyn Storage> = Arc::new(Counting::default());
    let accounts = vec![(account, "default".to_owned())];
    let store =
        universe.start::<Store>(ONLY, move || Store::new(Arc::clone(&storage), &accounts)).unwrap().address;

    let mut answers = Vec::new();
    for _ in 0..10 {
        let (reply, answer) = Reply::channel();
        store.tell(Command::Write { write: write(account, Vec::new()), reply: Some(reply) }).unwrap();
        answers.push(answer);
    }
    universe.settle();
    let mut heard = Vec::new();
    for _ in 0..20 {
        for command in office.take_all() {
            let grant_office::Command::Changed(committed) = command else { panic!("{command:?}") };
            heard.push(committed.sequence());
        }
        universe.advance(Duration::from_millis(20));
    }

    assert_eq!(heard, (1..=10).collect::<Vec<_>>(), "the office takes two at a time");
    assert_eq!(directory.take_all().len(), 10);
    let answered: Vec<_> =
        answers.iter_mut().map(|answer| answer.try_take().unwrap().unwrap().sequence()).collect();
    assert_eq!(answered, heard);
}

#[test]
fn a_follower_that_was_away_for_long_hears_of_the_newest_commit_and_so_of_the_gap() {
    let account = AccountId::fresh();
    let universe = Universe::new(ROWS);
    let office = universe.inbox::<GrantOffice>("default");
    let _directory = universe.inbox::<Directory>(ONLY);
    let _registry = universe.inbox::<RelayRegistry>(ONLY);
    let storage: Arc<dyn Storage> = Arc::new(Counting::default());
    let accounts = vec![(account, "default".to_owned())];
    let store =
        universe.start::<Store>(ONLY, move || Store::new(Arc::clone(&storage), &accounts)).unwrap().address;
    for _ in 0..60 {
        for _ in 0..50 {
            store.tell(Command::Write { write: write(account, Vec::new()), reply: None }).unwrap();
        }
        universe.settle();
    }

    let mut heard = Vec::new();
    for _ in 0..2000 {
        for command in office.take_all() {
            let grant_office::Command::Changed(committed) = command else { panic!("{command:?}") };
            heard.push(committed.sequence());
        }
        universe.advance(Duration::from_millis(20));
    }

    assert_eq!((heard.first(), heard.last()), (Some(&1), Some(&3000)));
    assert_eq!(heard.windows(2).filter(|pair| pair[1] != pair[0] + 1).count(), 1, "one gap");
}
