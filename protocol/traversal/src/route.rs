//! One path: whether it works, how well, and when it is probed next.

use std::time::Duration;

use crate::mtu::Mtu;
use crate::probe::PROBE_SIZE;
use crate::{Path, PathKind};

/// When the probes of a round leave, counted from its start. The first burst is quick, because each probe may be the one
/// that meets a hole which the other end has just punched. With a relay of ours in between there is nothing to punch.
const DIRECT_ROUND: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(300)];
const RELAYED_ROUND: [Duration; 2] = [Duration::ZERO, Duration::from_millis(400)];
/// From one round to the next, and how many there are before the path rests.
const ROUND: Duration = Duration::from_millis(1_200);
const ROUNDS: u8 = 3;

/// An early packet that met a NAT without inbound filtering leaves an entry there that blocks the pair; it is gone after
/// 30 seconds in which neither end sends. Then whoever sends first leaves the next one, unless the packets of both ends
/// pass each other on the way: over a relay they agree on the moment. The jitter of keepalives is added for those that
/// have no relay: if both ends woke up in the same order each time, the same packet would come too early each time.
const DIRECT_REST: Duration = Duration::from_secs(35);
/// A relay has no such entries; it may only not have its permission yet.
const RELAYED_REST: Duration = Duration::from_secs(5);
const RELAYED_REST_MAX: Duration = Duration::from_secs(60);

/// Round trips are measured this often on the path that carries data …
const MEASURE: Duration = Duration::from_secs(5);
/// … and this often on the others, where it also keeps the bindings of NATs: those last 30 seconds and more, and the
/// design allows at most 20.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// After a probe that was not answered, the next follow this fast.
const RETRY: Duration = Duration::from_millis(250);

/// A path is left when nothing came for this long after a probe …
const SILENCE: Duration = Duration::from_millis(1_200);
/// … or for three round trips, if that is longer, but never for longer than this …
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// … or when data comes in but no probe has been answered for this long: then only our direction is broken, or a queue
/// holds our probes up. Longer than the queues of home routers.
const ONE_WAY: Duration = Duration::from_secs(4);
/// … and in any case only when at least so many probes were lost.
const SILENCE_PROBES: u32 = 3;

/// A probe that is not answered within this counts as lost. Longer than a satellite and a full queue together.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Probes beyond the rounds because the other end was heard, in each round. Without a limit two ends that both try would
/// answer each probe with another one, for ever.
const EXTRA: u8 = 2;

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    id: u64,
    sent: Duration,
    size: usize,
}

/// Round trips of one path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rtt {
    pub smoothed: Duration,
    pub min: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Duration,
    probes: u32,
}

/// What is known of a path that has answered.
#[derive(Debug, Clone)]
pub(crate) struct Proven {
    pub since: Duration,
    pub rtt: Rtt,
    /// Share of small probes that were lost, smoothed.
    pub loss: f32,
    pub mtu: Mtu,
    next: Duration,
    silence: Option<Silence>,
}

#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Probes go out in rounds until one is answered.
    Trying { began: Duration, round: u8, sent: usize, extra: u8 },
    /// Nothing goes out until then. `agreed`: the other end has been told of that moment.
    Resting { until: Duration, agreed: bool },
    /// Nothing goes out until something changes.
    Idle,
    /// It works.
    Proven(Proven),
}

/// What a route wants its agent to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// A small probe.
    Probe,
    /// It has stopped working.
    Lost,
}

/// Outstanding probes that a route remembers: at the pace of the rounds and of retries, more than [`LOST_AFTER`], and
/// the padded ones of one search beside them.
const REMEMBERED: usize = 32;

#[derive(Debug)]
pub(crate) struct Route {
    pub path: Path,
    pub kind: PathKind,
    pub stage: Stage,
    pub last_heard: Option<Duration>,
    outstanding: [Option<Outstanding>; REMEMBERED],
    next_place: usize,
    rests: u8,
}

impl Route {
    pub(crate) fn new(path: Path, kind: PathKind, now: Duration) -> Self {
        Self {
            path,
            kind,
            stage: Stage::Trying { began: now, round: 0, sent: 0, extra: 0 },
            last_heard: None,
            outstanding: [None; REMEMBERED],
            next_place: 0,
            rests: 0,
        }
    }

    pub(crate) fn proven(&self) -> Option<&Proven> {
        match &self.stage {
            Stage::Proven(proven) => Some(proven),
            Stage::Trying { .. } | Stage::Resting { .. } | Stage::Idle => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn proven_mut(&mut self) -> Option<&mut Proven> {
        match &mut self.stage {
            Stage::Proven(proven) => Some(proven),
            Stage::Trying { .. } | Stage::Resting { .. } | Stage::Idle => None,
        }
    }

    /// Whether packets that prove nothing yet may be sent on it.
    pub(crate) fn is_open(&self) -> bool {
        match self.stage {
            Stage::Trying { .. } | Stage::Proven(_) => true,
            Stage::Resting { .. } | Stage::Idle => false,
        }
    }

    /// Starts from the beginning, whatever was known.
    pub(crate) fn revive(&mut self, now: Duration) {
        self.stage = Stage::Trying { began: now, round: 0, sent: 0, extra: 0 };
        self.outstanding = [None; REMEMBERED];
        self.rests = 0;
    }

    /// Tries again if it rests.
    pub(crate) fn wake(&mut self, now: Duration) {
        match self.stage {
            Stage::Resting { .. } | Stage::Idle => self.revive(now),
            Stage::Trying { .. } | Stage::Proven(_) => {}
        }
    }

    /// How much is left of a rest whose end is not agreed upon yet.
    pub(crate) fn rest_left(&self, now: Duration) -> Option<Duration> {
        match self.stage {
            Stage::Resting { until, agreed: false } => Some(until.saturating_sub(now)),
            Stage::Resting { .. } | Stage::Trying { .. } | Stage::Idle | Stage::Proven(_) => None,
        }
    }

    /// Ends its rest at the moment that the other end has been told.
    pub(crate) fn agree(&mut self, until: Duration) {
        if matches!(self.stage, Stage::Resting { .. }) {
            self.stage = Stage::Resting { until, agreed: true };
        }
    }

    /// The other end tries now: so do we, whether we rest or not.
    pub(crate) fn meet(&mut self, now: Duration) {
        match self.stage {
            Stage::Resting { .. } | Stage::Idle => {
                self.stage = Stage::Trying { began: now, round: 0, sent: 0, extra: 0 };
            }
            Stage::Trying { .. } | Stage::Proven(_) => {}
        }
    }

    /// The other end was heard here, so there is something to gain by trying at once. Whether a probe may go out.
    pub(crate) fn try_now(&mut self, now: Duration) -> bool {
        self.wake(now);
        match &mut self.stage {
            Stage::Trying { extra, .. } if *extra < EXTRA => {
                *extra += 1;
                true
            }
            Stage::Trying { .. } | Stage::Resting { .. } | Stage::Idle | Stage::Proven(_) => false,
        }
    }

    /// Something authentic came in.
    pub(crate) fn heard(&mut self, now: Duration) {
        self.last_heard = Some(now);
    }

    /// When [`Route::due`] has something to say, apart from what only the selected path does.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Trying { began, sent, .. } => {
                Some(began.saturating_add(self.round().get(*sent).copied().unwrap_or(ROUND)))
            }
            Stage::Resting { until, .. } => Some(*until),
            Stage::Idle => None,
            Stage::Proven(proven) => {
                let lost = proven.lost_at(self.last_heard);
                Some(lost.map_or(proven.next, |lost| lost.min(proven.next)))
            }
        }
    }

    /// What is due now. Small probes are entered with [`Route::sent`] when they leave. `needed`: no path of this kind
    /// is proven, so a rest ends some time.
    pub(crate) fn due(&mut self, needed: bool, jitter: Duration, now: Duration) -> Due {
        if self.deadline().is_none_or(|at| now < at) {
            return Due::Nothing;
        }
        let (round_len, last_heard) = (self.round().len(), self.last_heard);
        match &mut self.stage {
            Stage::Trying { sent, .. } if *sent < round_len => {
                *sent += 1;
                Due::Probe
            }
            Stage::Trying { began, round, sent, extra } if *round + 1 < ROUNDS => {
                (*began, *round, *sent, *extra) = (now, *round + 1, 1, 0);
                Due::Probe
            }
            Stage::Trying { .. } => {
                self.stage = if needed {
                    Stage::Resting { until: now.saturating_add(self.rest() + jitter), agreed: false }
                } else {
                    Stage::Idle
                };
                self.rests = self.rests.saturating_add(1);
                Due::Nothing
            }
            Stage::Resting { .. } if !needed => {
                self.stage = Stage::Idle;
                Due::Nothing
            }
            Stage::Resting { .. } => {
                self.stage = Stage::Trying { began: now, round: 0, sent: 1, extra: 0 };
                Due::Probe
            }
            Stage::Idle => Due::Nothing,
            Stage::Proven(proven) if proven.lost_at(last_heard).is_some_and(|at| at <= now) => Due::Lost,
            Stage::Proven(_) => Due::Probe,
        }
    }

    /// A probe leaves. `busy`: it is measured more often.
    pub(crate) fn sent(&mut self, id: u64, size: usize, now: Duration) {
        self.sweep(now);
        if let Some(place) = self.outstanding.get_mut(self.next_place) {
            *place = Some(Outstanding { id, sent: now, size });
        }
        self.next_place = (self.next_place + 1) % REMEMBERED;
        if let Stage::Proven(proven) = &mut self.stage
            && size <= PROBE_SIZE
        {
            let silence = proven.silence.get_or_insert(Silence { since: now, probes: 0 });
            silence.probes += 1;
            // The answer sets the next one further off.
            let retry = RETRY.max(proven.rtt.smoothed.saturating_mul(3) / 2).min(2 * RETRY);
            proven.next = now.saturating_add(retry);
        }
    }

    /// An answer to the probe `id` came in. The round trip when it proves the path; padded ones are told apart.
    pub(crate) fn answered(&mut self, id: u64, busy: bool, jitter: Duration, now: Duration) -> Answer {
        let Some(probe) = self.outstanding.iter_mut().find(|place| place.is_some_and(|probe| probe.id == id))
        else {
            return Answer::Unknown;
        };
        let Some(probe) = probe.take() else {
            return Answer::Unknown;
        };
        let rtt = now.saturating_sub(probe.sent);
        self.heard(now);
        self.rests = 0;
        if probe.size > PROBE_SIZE {
            if let Stage::Proven(proven) = &mut self.stage {
                proven.mtu.answered(probe.size, now);
            }
            return Answer::Padded;
        }
        // A path that lost much is measured often too: it may be the better one again.
        let lossy = self.proven().is_some_and(|proven| proven.loss > LOSSY);
        let interval = if busy || lossy { MEASURE } else { KEEPALIVE };
        let next = now.saturating_add(interval.saturating_sub(jitter));
        // What was lost on the way to the first answer says nothing about what comes after it.
        self.outstanding = match self.stage {
            Stage::Proven(_) => self.outstanding,
            Stage::Trying { .. } | Stage::Resting { .. } | Stage::Idle => [None; REMEMBERED],
        };
        match &mut self.stage {
            Stage::Proven(proven) => {
                proven.rtt = Rtt {
                    // RFC 6298's weight of one eighth.
                    smoothed: (proven.rtt.smoothed.saturating_mul(7) + rtt) / 8,
                    min: proven.rtt.min.min(rtt),
                };
                proven.loss *= 1.0 - LOSS_WEIGHT;
                proven.next = next;
                proven.silence = None;
                Answer::Again
            }
            Stage::Trying { .. } | Stage::Resting { .. } | Stage::Idle => {
                self.stage = Stage::Proven(Proven {
                    since: now,
                    rtt: Rtt { smoothed: rtt, min: rtt },
                    loss: 0.0,
                    mtu: Mtu::new(now),
                    next,
                    silence: None,
                });
                Answer::Proves(rtt)
            }
        }
    }

    /// The sizes of the padded probes that are due.
    pub(crate) fn next_padded(&mut self, now: Duration) -> Option<impl Iterator<Item = usize> + use<>> {
        let proven = self.proven_mut()?;
        Some(proven.mtu.next(proven.rtt.smoothed, now))
    }

    /// Asks for a probe by then at the latest.
    pub(crate) fn probe_by(&mut self, at: Duration) {
        if let Stage::Proven(proven) = &mut self.stage {
            proven.next = proven.next.min(at);
        }
    }

    /// Gives a proven path up that is not worth its keepalives.
    pub(crate) fn let_go(&mut self) {
        self.stage = Stage::Idle;
    }

    fn round(&self) -> &'static [Duration] {
        match self.kind {
            PathKind::Direct => &DIRECT_ROUND,
            PathKind::Relayed => &RELAYED_ROUND,
        }
    }

    fn rest(&self) -> Duration {
        match self.kind {
            PathKind::Direct => DIRECT_REST,
            PathKind::Relayed => RELAYED_REST.saturating_mul(1 << self.rests.min(8)).min(RELAYED_REST_MAX),
        }
    }

    /// Counts small probes that were lost.
    fn sweep(&mut self, now: Duration) {
        for place in &mut self.outstanding {
            if let Some(probe) = place
                && now.saturating_sub(probe.sent) >= LOST_AFTER
            {
                if probe.size <= PROBE_SIZE
                    && let Stage::Proven(proven) = &mut self.stage
                {
                    proven.loss += LOSS_WEIGHT * (1.0 - proven.loss);
                }
                *place = None;
            }
        }
    }
}

/// Weight of one probe in the smoothed loss.
const LOSS_WEIGHT: f32 = 0.125;

/// From here on a path counts as lossy.
const LOSSY: f32 = 0.05;

/// What an answer meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To nothing that we remember.
    Unknown,
    /// The first: the path works.
    Proves(Duration),
    /// Another one.
    Again,
    /// To a padded probe.
    Padded,
}

impl Proven {
    /// Whether a probe is out that was not answered yet.
    pub(crate) fn is_silent(&self) -> bool {
        self.silence.is_some()
    }

    /// When the path counts as lost, unless something comes in.
    fn lost_at(&self, last_heard: Option<Duration>) -> Option<Duration> {
        let silence = self.silence.filter(|silence| silence.probes >= SILENCE_PROBES)?;
        let patience = SILENCE.max(self.rtt.smoothed.saturating_mul(3)).min(SILENCE_MAX);
        let silent = silence.since.max(last_heard.unwrap_or_default()).saturating_add(patience);
        Some(silent.min(silence.since.saturating_add(ONE_WAY)))
    }
}
