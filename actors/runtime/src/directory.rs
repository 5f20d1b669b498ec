//! The roots of a process, by name: an address can be given out before its actor has started.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::lane::Place;
use crate::mailbox::{Controlled, Mailbox, lock};
use crate::table::{ROOT, Table};

#[derive(Default)]
pub(crate) struct Directory {
    mailboxes: Mutex<HashMap<Place, Arc<dyn Any + Send + Sync>>>,
}

impl Directory {
    /// The mailbox of a root, which may start later. A kind that is no root of the table has a mailbox that is closed.
    pub(crate) fn mailbox<C: Send + 'static>(
        &self,
        table: &Table,
        kind: &'static str,
        key: &str,
    ) -> Arc<Mailbox<C>> {
        let key: Arc<str> = Arc::from(key);
        let rule = match table.rule(kind) {
            Ok(rule) if rule.parent == ROOT => rule,
            _ => return Mailbox::nowhere(kind, key),
        };
        let mut mailboxes = lock(&self.mailboxes);
        let place = (kind, Arc::clone(&key));
        if let Some(known) = mailboxes.get(&place) {
            return match Arc::clone(known).downcast::<Mailbox<C>>() {
                Ok(mailbox) if !mailbox.life().has_ended() => mailbox,
                Ok(_) => {
                    let mailbox = Mailbox::new(rule, key);
                    mailboxes.insert(place, Arc::clone(&mailbox) as Arc<dyn Any + Send + Sync>);
                    mailbox
                }
                // Two actors of one name with different commands: the table test would have caught it.
                Err(_) => Mailbox::nowhere(kind, key),
            };
        }
        let mailbox = Mailbox::new(rule, key);
        mailboxes.insert(place, Arc::clone(&mailbox) as Arc<dyn Any + Send + Sync>);
        mailbox
    }
}
