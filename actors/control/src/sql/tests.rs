use protocol_control::{Flow, FlowBatch};
use protocol_identity::{IdentityKey, Token as Secrets, TokenKind};
use serde_json::json;

use super::*;
use crate::model::{Device, Gateway, Record};
use crate::storage::{self, Action, Note};
use crate::testing::*;

/// One of each kind, in an order in which they can be made.
struct One {
    objects: Vec<Object>,
}

async fn one_of_each(db: &Database) -> One {
    for host in [1i64, 2] {
        let sql = "INSERT INTO addresses (account, host) VALUES (?, ?)";
        db.storage.raw(sql, vec![(&db.account).into(), host.into()]).await;
    }
    let site = site("office");
    let mut principal = principal("ci");
    principal.labels = [("team".to_owned(), "infra".to_owned())].into();
    let group = group("engineering", &[&principal]);
    let mut resource = resource("wiki", &site, "wiki.corp.example");
    resource.labels = [("env".to_owned(), "production".to_owned())].into();
    let mut policy = policy("engineers", &[&group], &[&resource]);
    policy.principal_labels = ["team=infra".parse().unwrap()].into();
    policy.resource_labels = ["env=test,zone=a".parse().unwrap()].into();
    policy.place = Some("access.toml:3".into());
    let gateway = gateway("office-1", &site, 1);
    let device = device("laptop", &principal, 2);
    let grant = grant(&device, &resource, &gateway, &policy);
    let mut token = token(TokenKind::Gateway, "office");
    token.site = Some(site.id);
    token.identity = Some(gateway.0.identity);
    token.expires_at = Some(noon());
    let objects = vec![
        Object::Site(site),
        Object::Principal(principal),
        Object::Group(group),
        Object::Resource(resource),
        Object::Policy(policy),
        Object::Token(token),
        Object::Gateway(gateway.0),
        Object::Device(device.0),
        Object::Relay(relay("berlin-1")),
        grant.into(),
    ];
    db.create(objects.clone()).await;
    One { objects }
}

#[tokio::test]
async fn every_record_reads_back_as_it_was_written() {
    let db = Database::new().await;
    let one = one_of_each(&db).await;

    for object in one.objects {
        let by_id = db.storage.find(db.account, object.kind(), Key::Id(object.id())).await.unwrap();
        assert_eq!(by_id.as_ref(), Some(&object));
        if let Some(name) = object.name() {
            let by_name = db.storage.find(db.account, object.kind(), Key::Name(name.into())).await.unwrap();
            assert_eq!(by_name, by_id);
        }
    }
}

#[tokio::test]
async fn no_query_of_one_account_sees_or_touches_a_row_of_another() {
    let db = Database::new().await;
    let one = one_of_each(&db).await;
    let admin = Secrets::generate(TokenKind::Admin).unwrap().hash();
    let other = db.storage.create_account("other".into(), admin, noon()).await.unwrap().id;
    let before = db.storage.everything(db.account).await.unwrap();

    for object in &one.objects {
        let kind = object.kind();
        let found = db.storage.find(other, kind, Key::Id(object.id())).await.unwrap();
        assert_eq!(found, None, "{kind} by id");
        let page = Page { limit: 100, ..Page::default() };
        let listed = db.storage.list(other, kind, page).await.unwrap();
        assert!(listed.iter().all(|other| other.id() != object.id()), "{kind} in a list");

        let deleted = db.storage.commit(write(other, vec![Op::Delete(kind, Key::Id(object.id()))])).await;
        assert!(matches!(deleted, Err(StorageError::NotFound { .. })), "{kind} deleted");
        let patched = db
            .storage
            .commit(write(other, vec![Op::Patch(kind, Key::Id(object.id()), Box::new(|_| Ok(())))]))
            .await;
        assert!(matches!(patched, Err(StorageError::NotFound { .. })), "{kind} patched");
    }
    assert_eq!(db.storage.everything(other).await.unwrap().objects.len(), 2, "its own group and token alone");
    let log = db.storage.log(other, 0, 100).await.unwrap();
    assert_eq!(log.len(), 2, "the account's own first rows");
    db.storage
        .touch(other, one.objects.iter().map(|object| TokenId(object.id())).collect(), noon())
        .await
        .unwrap();
    assert_eq!(db.storage.everything(db.account).await.unwrap().objects, before.objects);
}

#[tokio::test]
async fn a_row_cannot_refer_to_a_row_of_another_account() {
    let db = Database::new().await;
    let office = site("office");
    db.create([Object::Site(office.clone())]).await;
    let admin = Secrets::generate(TokenKind::Admin).unwrap().hash();
    let other = db.storage.create_account("other".into(), admin, noon()).await.unwrap().id;

    let stolen = resource("wiki", &office, "10.0.0.0/8");
    let result = db.storage.commit(write(other, vec![Op::Create(Object::Resource(stolen))])).await;

    assert!(matches!(result, Err(StorageError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn a_change_and_its_row_in_the_log_come_together_or_not_at_all() {
    let db = Database::new().await;
    let before = db.storage.log(db.account, 0, 100).await.unwrap().len();

    let clash = vec![Op::Create(site("office").into()), Op::Create(site("office").into())];
    let refused = db.write(clash).await;
    let after_refusal = db.storage.log(db.account, 0, 100).await.unwrap().len();
    let office = site("office");
    let committed = db.write(vec![Op::Create(office.clone().into())]).await.unwrap();

    assert!(matches!(refused, Err(StorageError::NameTaken { kind: Kind::Site, .. })), "{refused:?}");
    assert_eq!(after_refusal, before);
    let log = db.storage.log(db.account, 0, 100).await.unwrap();
    assert_eq!(log.len(), before + 1);
    let row = log.last().unwrap();
    assert_eq!(
        (
            row.sequence,
            row.actor.as_str(),
            row.action.as_str(),
            row.kind.as_str(),
            row.id,
            row.name.as_deref()
        ),
        (committed.sequence(), "test", "created", "site", Some(office.id.0), Some("office"))
    );
    assert_eq!(db.storage.everything(db.account).await.unwrap().sequence, committed.sequence());
}

#[tokio::test]
async fn of_changes_that_are_written_together_each_is_whole_or_refused_by_itself() {
    let db = Database::new().await;
    let group = |name: &str| {
        let group = Group {
            id: GroupId::fresh(),
            name: name.into(),
            everyone: false,
            members: BTreeSet::new(),
            created_at: noon(),
        };
        Op::Create(group.into())
    };
    let before = db.storage.everything(db.account).await.unwrap().sequence;

    let results = db
        .storage
        .commit_all(vec![
            write(db.account, vec![group("first")]),
            write(db.account, vec![group("undone"), group("first")]),
            write(db.account, vec![group("third"), group("fourth")]),
        ])
        .await
        .unwrap();

    let sequences: Vec<Option<u64>> =
        results.iter().map(|result| result.as_ref().ok().map(Committed::sequence)).collect();
    assert_eq!(sequences, [Some(before + 1), None, Some(before + 3)]);
    assert!(matches!(results[1], Err(StorageError::NameTaken { .. })), "{:?}", results[1]);
    let page = Page { limit: 100, ..Page::default() };
    let groups = db.storage.list(db.account, Kind::Group, page).await.unwrap();
    let names: Vec<&str> = groups.iter().filter_map(Object::name).collect();
    assert_eq!(names, ["everyone", "first", "third", "fourth"]);
}

#[tokio::test]
async fn a_refused_patch_changes_nothing() {
    let db = Database::new().await;
    db.create([Object::Site(site("office"))]).await;

    let patch = Op::Patch(
        Kind::Site,
        Key::Name("office".into()),
        Box::new(|object| {
            if let Some(site) = crate::model::Site::from_object_mut(object) {
                site.name = "elsewhere".into();
            }
            Err(StorageError::Refused("no".into()))
        }),
    );
    let refused = db.write(vec![patch]).await;

    assert!(matches!(refused, Err(StorageError::Refused(_))));
    assert!(
        storage::find::<crate::model::Site>(&db.storage, db.account, Key::Name("office".into()))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn what_is_in_use_says_by_whom_and_stays() {
    let db = Database::new().await;
    one_of_each(&db).await;
    let delete = |kind, name: &str| vec![Op::Delete(kind, Key::Name(name.into()))];

    let site = db.write(delete(Kind::Site, "office")).await.unwrap_err();
    let group = db.write(delete(Kind::Group, "engineering")).await.unwrap_err();

    assert_eq!(site.to_string(), "resource wiki still uses it");
    assert_eq!(group.to_string(), "policy engineers still uses it");
}

#[tokio::test]
async fn a_principal_takes_its_devices_grants_and_memberships_along() {
    let db = Database::new().await;
    one_of_each(&db).await;

    let committed = db.write(vec![Op::Delete(Kind::Principal, Key::Name("ci".into()))]).await.unwrap();

    assert!(matches!(committed.changes[0].action, Action::Deleted(Kind::Principal, _)));
    let left = db.storage.everything(db.account).await.unwrap().objects;
    assert!(!left.iter().any(|object| matches!(object.kind(), Kind::Device | Kind::Grant | Kind::Principal)));
    let members: usize = left
        .iter()
        .map(|object| if let Object::Group(group) = object { group.members.len() } else { 0 })
        .sum();
    assert_eq!(members, 0);
}

#[tokio::test]
async fn a_token_is_found_by_its_hash_alone_and_never_kept_in_clear() {
    let db = Database::new().await;
    let secret = Secrets::generate(TokenKind::ServiceAccount).unwrap();
    let principal = principal("ci");
    let mut kept = token(TokenKind::ServiceAccount, "first");
    (kept.hash, kept.principal) = (secret.hash(), Some(principal.id));
    db.create([principal.into(), kept.clone().into()]).await;

    let found = db.storage.authenticate(secret.hash()).await.unwrap();
    let other =
        db.storage.authenticate(Secrets::generate(TokenKind::ServiceAccount).unwrap().hash()).await.unwrap();

    let (account, token) = found.unwrap();
    assert_eq!((account.id, token), (db.account, kept));
    assert_eq!(other, None);
    db.storage.close().await;
    let revealed = secret.reveal();
    let clear = revealed.strip_prefix(TokenKind::ServiceAccount.prefix()).unwrap();
    for file in std::fs::read_dir(db.directory.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(clear.len()).any(|window| window == clear.as_bytes()));
    }
}

#[tokio::test]
async fn nodes_are_found_by_their_identity_and_get_names_and_addresses_of_their_own() {
    let db = Database::new().await;
    let office = site("office");
    let ci = principal("ci");
    let mut gateways = token(TokenKind::Gateway, "office");
    gateways.site = Some(office.id);
    let mut devices = token(TokenKind::ServiceAccount, "first");
    devices.principal = Some(ci.id);
    db.create([office.into(), ci.into(), gateways.clone().into(), devices.clone().into()]).await;
    let [one, two, three] = [(); 3].map(|()| IdentityKey::generate().unwrap());

    let first = db.join(&gateways, &one, "office 1", gateway_hello()).await.unwrap();
    let second = db.join(&gateways, &two, "office 1", gateway_hello()).await.unwrap();
    let again = db.join(&gateways, &one, "renamed", gateway_hello()).await.unwrap();
    let device = db.join(&devices, &three, "laptop", client_hello()).await.unwrap();

    let (first, second) = (Gateway::from_object(first).unwrap(), Gateway::from_object(second).unwrap());
    assert_eq!((first.name.as_str(), second.name.as_str()), ("office-1", "office-1-2"));
    assert_eq!(again.id(), first.id.0);
    let hosts = set([first.host, second.host, Device::from_object(device).unwrap().host]);
    assert_eq!(hosts, set([1, 2, 3]));
}

#[tokio::test]
async fn an_identity_cannot_move_to_another_site_or_principal() {
    let db = Database::new().await;
    let (office, plant) = (site("office"), site("plant"));
    let mut to_office = token(TokenKind::Gateway, "office");
    to_office.site = Some(office.id);
    let mut to_plant = token(TokenKind::Gateway, "plant");
    to_plant.site = Some(plant.id);
    db.create([office.into(), plant.into(), to_office.clone().into(), to_plant.clone().into()]).await;
    let identity = IdentityKey::generate().unwrap();
    db.join(&to_office, &identity, "gw", gateway_hello()).await.unwrap();

    let moved = db.join(&to_plant, &identity, "gw", gateway_hello()).await;

    assert!(matches!(moved, Err(StorageError::OtherInstallation)));
}

#[tokio::test]
async fn a_token_for_one_installation_is_refused_to_a_second() {
    let db = Database::new().await;
    let mut relays = token(TokenKind::Relay, "berlin");
    relays.many = false;
    db.create([Object::Token(relays.clone())]).await;
    let [first, second] = [(); 2].map(|()| IdentityKey::generate().unwrap());

    let joined = db.join(&relays, &first, "berlin-1", relay_hello()).await;
    let refused = db.join(&relays, &second, "berlin-2", relay_hello()).await;
    let again = db.join(&relays, &first, "berlin-1", relay_hello()).await;

    assert_eq!(joined.unwrap().id(), again.unwrap().id());
    assert!(matches!(refused, Err(StorageError::OtherInstallation)));
}

#[tokio::test]
async fn of_fifty_that_use_a_one_shot_token_at_once_one_wins() {
    let db = std::sync::Arc::new(Database::new().await);

    for round in 0..100 {
        let mut relays = token(TokenKind::Relay, &format!("round-{round}"));
        relays.many = false;
        db.create([Object::Token(relays.clone())]).await;
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (db, relays) = (std::sync::Arc::clone(&db), relays.clone());
            let identity = IdentityKey::generate().unwrap();
            all.spawn(async move { db.join(&relays, &identity, "relay", relay_hello()).await });
        }
        let results = all.join_all().await;
        let won = results.iter().filter(|result| result.is_ok()).count();
        let lost =
            results.iter().filter(|result| matches!(result, Err(StorageError::OtherInstallation))).count();
        assert_eq!((won, lost), (1, 49), "round {round}");
    }
}

#[tokio::test]
async fn the_log_has_no_gaps_and_is_in_the_order_of_commits() {
    let db = std::sync::Arc::new(Database::new().await);
    let before = db.storage.everything(db.account).await.unwrap().sequence;

    let mut all = tokio::task::JoinSet::new();
    for n in 0..40 {
        let db = std::sync::Arc::clone(&db);
        all.spawn(async move {
            // Every fourth is refused, and leaves no gap.
            let name = if n % 4 == 0 { "default".to_owned() } else { format!("site-{n}") };
            let pair = vec![Op::Create(site(&name).into()), Op::Create(site(&format!("{name}-b")).into())];
            db.write(pair)
                .await
                .map(|committed| committed.changes.iter().map(|change| change.sequence).collect::<Vec<_>>())
        });
    }
    let committed: Vec<Vec<u64>> = all.join_all().await.into_iter().filter_map(Result::ok).collect();

    let log = db.storage.log(db.account, before, 1000).await.unwrap();
    let sequences: Vec<u64> = log.iter().map(|row| row.sequence).collect();
    assert_eq!(committed.len(), 31);
    assert_eq!(sequences, (before + 1..=before + 62).collect::<Vec<_>>());
    assert!(committed.iter().all(|pair| pair[1] == pair[0] + 1), "one commit's rows stand together");
}

#[tokio::test]
async fn each_row_of_the_log_carries_the_hash_of_the_one_before_it_in_its_account() {
    let db = Database::new().await;
    let admin = Secrets::generate(TokenKind::Admin).unwrap().hash();
    let other = db.storage.create_account("other".into(), admin, noon()).await.unwrap().id;
    for n in 0..3 {
        db.create([Object::Site(site(&format!("site-{n}")))]).await;
        let theirs = vec![Op::Create(site(&format!("site-{n}")).into())];
        db.storage.commit(write(other, theirs)).await.unwrap();
    }

    for account in [db.account, other] {
        let records: Vec<_> =
            db.storage.log(account, 0, 100).await.unwrap().into_iter().map(LogRow::record).collect();
        assert_eq!(records.len(), 5, "two of the account's own, three sites");
        assert_eq!(records[0].previous, protocol_audit::BEGINNING);
        for pair in records.windows(2) {
            assert_eq!(pair[1].previous, pair[0].hash);
        }
        assert!(records.iter().all(|record| record.hash == record.expected_hash()));
    }
}

#[tokio::test]
async fn what_is_checked_inside_a_change_refuses_all_of_it() {
    let db = Database::new().await;
    one_of_each(&db).await;
    let check = |wanted: usize| {
        let check = move |all: &[Object]| match all.len() == wanted {
            true => Ok(()),
            false => Err(StorageError::Refused(format!("there are {}", all.len()))),
        };
        Op::Check(Kind::Site, Box::new(check))
    };

    let refused = db.write(vec![Op::Create(site("plant").into()), check(1)]).await;
    let done = db.write(vec![check(1), Op::Create(site("plant").into()), check(2)]).await;

    assert_eq!(refused.unwrap_err().to_string(), "there are 2");
    assert_eq!(done.unwrap().changes.len(), 1, "looking is no change");
}

#[tokio::test]
async fn text_that_no_database_could_keep_is_looked_for_and_not_found() {
    let db = Database::new().await;

    let found = db.storage.find(db.account, Kind::Site, Key::Name("a\0b".into())).await;
    let page = Page { limit: 10, name: Some("\0".into()), after: None };
    let listed = db.storage.list(db.account, Kind::Site, page).await;

    assert_eq!((found.unwrap(), listed.unwrap()), (None, Vec::new()));
}

/// The file of a SQLite database; nothing when the tests run on PostgreSQL.
fn file(db: &Database) -> Option<std::path::PathBuf> {
    match &db.location {
        Location::Sqlite(file) => Some(file.clone()),
        Location::Postgres(_) => None,
    }
}

#[tokio::test]
async fn a_backup_is_taken_while_the_database_is_written_and_put_back_whole() {
    let db = Database::new().await;
    let Some(database) = file(&db) else { return };
    let copy = db.directory.path().join("backup.sqlite");
    one_of_each(&db).await;
    let at_backup = db.storage.everything(db.account).await.unwrap();

    let copied = backup(&database, &copy).await.unwrap();
    db.create([Object::Site(site("later"))]).await;
    db.storage.close().await;
    let (restored, kept) = restore(&copy, &database).await.unwrap();

    assert_eq!((copied.sequence, copied.accounts), (at_backup.sequence, 1));
    assert_eq!(restored, copied);
    let opened = Sql::open(&db.location).await.unwrap();
    assert_eq!(opened.everything(db.account).await.unwrap().objects, at_backup.objects);
    let before = Sql::open(&Location::Sqlite(kept.unwrap())).await.unwrap();
    let later = before.find(db.account, Kind::Site, Key::Name("later".into())).await.unwrap();
    assert!(later.is_some(), "what was there before is kept beside it");
}

#[tokio::test]
async fn what_is_no_whole_backup_is_not_restored() {
    let db = Database::new().await;
    let Some(database) = file(&db) else { return };
    let path = |name: &str| db.directory.path().join(name);
    let before = db.storage.everything(db.account).await.unwrap().objects;
    std::fs::write(path("text"), "no database").unwrap();
    backup(&database, &path("newer")).await.unwrap();
    let newer = Sql::open(&Location::Sqlite(path("newer"))).await.unwrap();
    let sql = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
               VALUES (9999, 'from the future', TRUE, ?, 0)";
    newer.raw(sql, vec![Value::Bytes(vec![0])]).await;
    newer.close().await;

    let text = restore(&path("text"), &database).await;
    let missing = restore(&path("missing"), &database).await;
    let newer = restore(&path("newer"), &database).await;

    assert!(matches!(text, Err(NotABackup::Other(_))), "{text:?}");
    assert!(matches!(missing, Err(NotABackup::Other(_))), "{missing:?}");
    assert!(matches!(newer, Err(NotABackup::Newer(9999))), "{newer:?}");
    assert_eq!(db.storage.everything(db.account).await.unwrap().objects, before);
}

#[tokio::test]
async fn a_token_of_another_kind_joins_nothing() {
    let db = Database::new().await;
    let ci = principal("ci");
    let mut devices = token(TokenKind::ServiceAccount, "first");
    devices.principal = Some(ci.id);
    db.create([ci.into(), devices.clone().into()]).await;

    let refused = db.join(&devices, &IdentityKey::generate().unwrap(), "gw", gateway_hello()).await;

    assert!(matches!(refused, Err(StorageError::OtherInstallation)));
}

#[tokio::test]
async fn an_ended_join_token_lets_nobody_new_in_but_keeps_those_that_are_in() {
    let db = Database::new().await;
    let office = site("office");
    let mut gateways = token(TokenKind::Gateway, "office");
    (gateways.site, gateways.expires_at) = (Some(office.id), Some(at("2026-11-24T13:00:00Z")));
    db.create([office.into(), gateways.clone().into()]).await;
    let [known, new] = [(); 2].map(|()| IdentityKey::generate().unwrap());
    db.join(&gateways, &known, "gw", gateway_hello()).await.unwrap();

    let join = |identity: &IdentityKey| {
        let join = storage::Join {
            token: gateways.clone(),
            identity: identity.public(),
            name: "gw".into(),
            version: "0.1.0".into(),
            role: gateway_hello(),
        };
        Write { at: at("2026-11-24T14:00:00Z"), ..write(db.account, vec![Op::Join(Box::new(join))]) }
    };
    let later = db.storage.commit(join(&known)).await;
    let too_late = db.storage.commit(join(&new)).await;

    assert!(later.is_ok());
    assert!(matches!(too_late, Err(StorageError::NotFound { kind: Kind::Token, .. })));
}

#[tokio::test]
async fn addresses_that_were_given_back_are_used_again_when_the_range_is_full() {
    let db = Database::new().await;
    let ci = principal("ci");
    let mut devices = token(TokenKind::ServiceAccount, "first");
    devices.principal = Some(ci.id);
    db.create([ci.into(), devices.clone().into()]).await;
    let mut hosts = Vec::new();
    for name in ["a", "b", "c"] {
        let device =
            db.join(&devices, &IdentityKey::generate().unwrap(), name, client_hello()).await.unwrap();
        hosts.push(Device::from_object(device).unwrap().host);
    }
    let sql = "INSERT INTO addresses (account, host) VALUES (?, ?)";
    db.storage.raw(sql, vec![(&db.account).into(), i64::from(crate::model::MAX_HOST).into()]).await;

    db.write(vec![Op::Delete(Kind::Device, Key::Name("b".into()))]).await.unwrap();
    let next = db.join(&devices, &IdentityKey::generate().unwrap(), "d", client_hello()).await.unwrap();

    assert_eq!(hosts, [1, 2, 3]);
    assert_eq!(Device::from_object(next).unwrap().host, 2);
}

#[tokio::test]
async fn lists_come_in_pages_in_the_order_of_creation() {
    let db = Database::new().await;
    for name in ["a", "b", "c"] {
        db.create([Object::Site(site(name))]).await;
    }

    let page = |after, limit| Page { after, limit, name: None };
    let first = storage::list::<crate::model::Site>(&db.storage, db.account, page(None, 2)).await.unwrap();
    let second = storage::list::<crate::model::Site>(&db.storage, db.account, page(Some(first[1].id.0), 2))
        .await
        .unwrap();

    let names: Vec<_> = first.iter().chain(&second).map(|site| site.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let db = Database::new().await;
    let sql = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
               VALUES (9999, 'from the future', TRUE, ?, 0)";
    db.storage.raw(sql, vec![Value::Bytes(vec![0])]).await;
    db.storage.close().await;

    let opened = Sql::open(&db.location).await;

    assert!(matches!(opened, Err(StorageError::Migration(_))));
}

#[tokio::test]
async fn a_database_that_exists_is_opened_again_with_everything_in_it() {
    let db = Database::new().await;
    one_of_each(&db).await;
    let before = db.storage.everything(db.account).await.unwrap();
    db.storage.close().await;

    let opened = Sql::open(&db.location).await.unwrap();

    assert_eq!(opened.everything(db.account).await.unwrap().objects, before.objects);
    assert_eq!(opened.accounts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_log_forgets_its_oldest_rows_only() {
    let db = Database::new().await;
    let note = || {
        Op::Note(Note {
            action: "denied",
            kind: Kind::Resource,
            id: None,
            name: None,
            detail: json!({"n": 1}),
        })
    };
    db.write((0..10).map(|_| note()).collect()).await.unwrap();
    let last = db.storage.everything(db.account).await.unwrap().sequence;

    db.storage.trim_log(3).await.unwrap();

    let log = db.storage.log(db.account, 0, 100).await.unwrap();
    assert_eq!(log.iter().map(|row| row.sequence).collect::<Vec<_>>(), [last - 2, last - 1, last]);
}

/// A flow of the device, to the resource, and the gateway that reports it.
fn flow_of(one: &One, bytes_in: u64) -> (GatewayId, Flow) {
    let mut flow = a_flow(bytes_in);
    let mut gateway = None;
    for object in &one.objects {
        match object {
            Object::Device(it) => flow.device = it.id,
            Object::Resource(it) => flow.resource = it.id,
            Object::Policy(it) => flow.policy = it.id,
            Object::Gateway(it) => gateway = Some(it.id),
            _ => {}
        }
    }
    (gateway.unwrap(), flow)
}

fn all_flows() -> FlowFilter {
    FlowFilter { limit: 100, ..FlowFilter::default() }
}

fn bytes_of(flows: &[StoredFlow]) -> Vec<u64> {
    flows.iter().map(|stored| stored.flow.bytes_in).collect()
}

#[tokio::test]
async fn a_batch_of_flows_is_stored_once_with_the_names_of_that_moment() {
    let db = Database::new().await;
    let (gateway, flow) = flow_of(&one_of_each(&db).await, 300);
    let batch = |stream, sequence| FlowBatch { stream, sequence, flows: vec![flow.clone()] };
    let store = |batch| db.storage.store_flows(db.account, gateway, batch, noon());

    assert!(store(batch(u64::MAX, 2)).await.unwrap());
    assert!(!store(batch(u64::MAX, 2)).await.unwrap(), "the same");
    assert!(!store(batch(u64::MAX, 1)).await.unwrap(), "an older one");
    assert!(store(batch(u64::MAX, 9)).await.unwrap(), "a gap is what had no room");
    assert!(store(batch(5, 1)).await.unwrap(), "another process");

    let stored = db.storage.flows(db.account, all_flows()).await.unwrap();
    assert_eq!(stored.len(), 3);
    let Flow { bytes_out, .. } = stored[0].flow;
    assert_eq!(bytes_out, i64::MAX.unsigned_abs(), "more than a column holds");
    assert_eq!(stored[0].flow, Flow { bytes_out, ..flow.clone() });
    let names = [&stored[0].gateway, &stored[0].device, &stored[0].resource, &stored[0].policy];
    assert_eq!(names.map(|named| named.name.as_str()), ["office-1", "laptop", "wiki", "engineers"]);
    assert_eq!(stored[0].principal.as_ref().unwrap().name, "ci");
}

#[tokio::test]
async fn flows_are_found_by_who_what_and_when_a_part_at_a_time() {
    let db = Database::new().await;
    let one = one_of_each(&db).await;
    for (n, minutes) in [(1, 0), (2, 10), (3, 20)] {
        let (gateway, mut flow) = flow_of(&one, n);
        flow.started += minutes * 60_000;
        flow.ended += minutes * 60_000;
        if n == 3 {
            flow.device = protocol_identity::DeviceId::fresh();
        }
        let batch = FlowBatch { stream: 1, sequence: n, flows: vec![flow] };
        db.storage.store_flows(db.account, gateway, batch, noon()).await.unwrap();
    }
    let found = |filter| async { bytes_of(&db.storage.flows(db.account, filter).await.unwrap()) };
    let some = |text: &str| Some(text.to_owned());

    assert_eq!(found(FlowFilter { principal: some("ci"), ..all_flows() }).await, [1, 2]);
    assert_eq!(
        found(FlowFilter { resource: some("wiki"), gateway: some("office-1"), ..all_flows() }).await,
        [1, 2, 3]
    );
    assert_eq!(found(FlowFilter { resource: some("other"), ..all_flows() }).await, [0; 0]);
    let later = noon() + jiff::SignedDuration::from_mins(5);
    assert_eq!(found(FlowFilter { since: Some(later), ..all_flows() }).await, [2, 3]);
    assert_eq!(found(FlowFilter { until: Some(later), ..all_flows() }).await, [1]);
    let first = db.storage.flows(db.account, FlowFilter { limit: 2, ..all_flows() }).await.unwrap();
    assert_eq!(bytes_of(&first), [1, 2]);
    assert_eq!(found(FlowFilter { after: Some(first[1].id), ..all_flows() }).await, [3]);
    let device = first[0].device.id.to_string();
    assert_eq!(found(FlowFilter { device: Some(device), ..all_flows() }).await, [1, 2]);
    let admin = Secrets::generate(TokenKind::Admin).unwrap().hash();
    let other = db.storage.create_account("other".into(), admin, noon()).await.unwrap().id;
    assert!(db.storage.flows(other, all_flows()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_flow_that_ended_with_its_principal_still_says_whose_it_was() {
    let db = Database::new().await;
    let one = one_of_each(&db).await;
    let (gateway, flow) = flow_of(&one, 1);
    for kind in [Kind::Policy, Kind::Principal] {
        let object = one.objects.iter().find(|object| object.kind() == kind).unwrap();
        db.write(vec![Op::Delete(kind, Key::Id(object.id()))]).await.unwrap();
    }

    let batch = FlowBatch { stream: 1, sequence: 1, flows: vec![flow] };
    db.storage.store_flows(db.account, gateway, batch, noon()).await.unwrap();

    let stored = db.storage.flows(db.account, all_flows()).await.unwrap().remove(0);
    assert_eq!((stored.device.name.as_str(), stored.policy.name.as_str()), ("laptop", "engineers"));
    assert_eq!(stored.principal.unwrap().name, "ci");
}

#[tokio::test]
async fn old_flows_are_deleted_a_part_at_a_time() {
    let db = Database::new().await;
    let (gateway, flow) = flow_of(&one_of_each(&db).await, 1);
    let batch = FlowBatch { stream: 1, sequence: 1, flows: vec![flow; 5] };
    db.storage.store_flows(db.account, gateway, batch, noon()).await.unwrap();
    let arrived = Timestamp::now();

    let before = arrived - jiff::SignedDuration::from_secs(60);
    assert_eq!(db.storage.trim_flows(db.account, before, 2).await.unwrap(), 0);
    let after = arrived + jiff::SignedDuration::from_secs(60);
    let mut parts = Vec::new();
    for _ in 0..3 {
        parts.push(db.storage.trim_flows(db.account, after, 2).await.unwrap());
    }

    assert_eq!(parts, [2, 2, 1]);
    assert!(db.storage.flows(db.account, all_flows()).await.unwrap().is_empty());
}
