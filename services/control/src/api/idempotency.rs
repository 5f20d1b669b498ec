//! Answers to requests that carried an `Idempotency-Key`, so that a client that lost an answer may ask again. Kept in
//! memory only, since an answer may hold a token, which is shown once and never stored.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use protocol_identity::TokenId;

/// How long an answer is kept.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// The most answers.
const MOST: usize = 4096;
/// The most bytes of them.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Who asked, and the key.
pub type Key = (TokenId, String);

/// An answer that can be given again.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// What a client needs of its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

#[derive(Debug)]
struct Entry {
    print: u64,
    began: Instant,
    answer: Option<Answer>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Key, Entry>,
    /// In the order of their beginning.
    order: VecDeque<Key>,
    bytes: usize,
}

/// The answers.
#[derive(Debug, Clone, Default)]
pub struct Idempotency(Arc<Mutex<Kept>>);

/// What is known of a key.
#[derive(Debug)]
pub enum Begun {
    /// Nothing: do it, and close the ticket.
    Fresh(Ticket),
    /// It was done; this came of it.
    Answered(Answer),
    /// It is being done.
    UnderWay,
    /// The key stands for another request.
    Another,
}

/// The right to do what a key stands for. Without an answer by its end, the key is free again.
#[derive(Debug)]
pub struct Ticket {
    all: Idempotency,
    key: Key,
    closed: bool,
}

/// Tells requests apart; an accident, not an enemy, is what it must not confuse.
pub fn fingerprint(parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish()
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.answer.map_or(0, |answer| answer.body.len());
            self.order.retain(|other| other != key);
        }
    }

    /// Forgets what is too old or too much.
    fn trim(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front() {
            let old = self
                .entries
                .get(oldest)
                .is_none_or(|entry| now.saturating_duration_since(entry.began) >= KEEP);
            if !old && self.entries.len() <= MOST && self.bytes <= MOST_BYTES {
                return;
            }
            let oldest = oldest.clone();
            self.remove(&oldest);
            if self.order.front() == Some(&oldest) {
                self.order.pop_front();
            }
        }
    }
}

impl Idempotency {
    /// Looks a key up, and takes it when it is new.
    pub fn begin(&self, key: Key, print: u64, now: Instant) -> Begun {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.trim(now);
        match kept.entries.get(&key) {
            Some(entry) if entry.print != print => Begun::Another,
            Some(Entry { answer: Some(answer), .. }) => Begun::Answered(answer.clone()),
            Some(Entry { answer: None, .. }) => Begun::UnderWay,
            None => {
                kept.order.push_back(key.clone());
                kept.entries.insert(key.clone(), Entry { print, began: now, answer: None });
                Begun::Fresh(Ticket { all: self.clone(), key, closed: false })
            }
        }
    }
}

impl Ticket {
    /// Keeps the answer when something was done. A refusal is not kept: the next try may fare better.
    pub fn close(mut self, response: &HttpResponse<()>, body: &Bytes) {
        if !response.status().is_success() {
            return;
        }
        let wanted = [header::CONTENT_TYPE, header::LOCATION, header::CACHE_CONTROL, header::ETAG];
        let headers = wanted
            .into_iter()
            .filter_map(|name| response.headers().get(&name).map(|value| (name.clone(), value.clone())))
            .collect();
        let answer = Answer { status: response.status(), headers, body: body.clone() };
        let mut kept = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = kept.entries.get_mut(&self.key) {
            entry.answer = Some(answer);
            kept.bytes += body.len();
        }
        drop(kept);
        self.closed = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.closed {
            self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        (TokenId(uuid::Uuid::nil()), name.into())
    }

    #[test]
    fn a_second_request_waits_for_the_first_and_gets_its_answer() {
        let (all, now) = (Idempotency::default(), Instant::now());
        let Begun::Fresh(ticket) = all.begin(key("a"), 1, now) else { panic!("not fresh") };

        assert!(matches!(all.begin(key("a"), 1, now), Begun::UnderWay));
        assert!(matches!(all.begin(key("a"), 2, now), Begun::Another));
        ticket.close(&HttpResponse::Created().finish().drop_body(), &Bytes::from_static(b"made"));

        let Begun::Answered(answer) = all.begin(key("a"), 1, now) else { panic!("no answer") };
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::CREATED, &b"made"[..]));
        assert!(matches!(all.begin(key("a"), 1, now + KEEP), Begun::Fresh(_)));
    }

    #[test]
    fn what_failed_may_be_tried_again() {
        let (all, now) = (Idempotency::default(), Instant::now());
        let Begun::Fresh(ticket) = all.begin(key("a"), 1, now) else { panic!("not fresh") };

        ticket.close(&HttpResponse::Conflict().finish().drop_body(), &Bytes::new());

        assert!(matches!(all.begin(key("a"), 2, now), Begun::Fresh(_)));
    }

    #[test]
    fn many_answers_do_not_fill_the_memory() {
        let (all, now) = (Idempotency::default(), Instant::now());

        for n in 0..2 * MOST {
            let Begun::Fresh(ticket) = all.begin(key(&n.to_string()), 1, now) else { panic!("not fresh") };
            ticket.close(&HttpResponse::Created().finish().drop_body(), &Bytes::from(vec![0; 32 * 1024]));
        }

        let kept = all.0.lock().unwrap();
        assert!(kept.entries.len() <= MOST && kept.bytes <= MOST_BYTES + 32 * 1024);
        assert_eq!(kept.entries.len(), kept.order.len());
    }
}
