//! The file that flow records wait in: batches one behind the other, each with its length before it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use protocol_control::{FlowBatch, MAX_FROM_NODE};

/// Bytes of a length.
const PREFIX: usize = 4;

/// What has to be done for the file to hold what waits.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing: it does.
    Nothing,
    /// These are to stand behind what is there.
    Append(Vec<((u64, u64), Vec<u8>)>),
    /// These alone are to be there.
    Rewrite(Vec<((u64, u64), Vec<u8>)>),
}

/// An open file of batches: at most three times as large as the spool may be.
#[derive(Debug)]
pub(super) struct SpoolFile {
    file: File,
    held: HashSet<(u64, u64)>,
    /// Bytes of whole batches.
    length: u64,
    most: u64,
}

impl SpoolFile {
    /// Opens the file, or makes it, and reads what it holds. What stands behind a torn batch is given up.
    pub(super) fn open(path: &Path, most: usize) -> io::Result<(Self, Vec<FlowBatch>)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        (&mut file).take(most.saturating_mul(3)).read_to_end(&mut bytes)?;
        let (mut batches, mut at) = (Vec::new(), 0);
        while let Some((batch, end)) = batch_at(&bytes, at) {
            batches.push(batch);
            at = end;
        }
        let held = batches.iter().map(FlowBatch::id).collect();
        Ok((Self { file, held, length: at as u64, most }, batches))
    }

    /// What has to be done. Batches that are confirmed stay in the file until it is emptied or grows too large; control
    /// stores none twice.
    pub(super) fn plan<'a>(&self, batches: impl Iterator<Item = &'a FlowBatch>) -> Plan {
        let mut batches = batches.peekable();
        let encoded = |batch: &FlowBatch| (batch.id(), batch.to_bytes());
        if batches.peek().is_none() {
            return if self.length > 0 { Plan::Rewrite(Vec::new()) } else { Plan::Nothing };
        }
        if self.length > self.most.saturating_add(self.most / 2) {
            return Plan::Rewrite(batches.map(encoded).collect());
        }
        let new: Vec<_> = batches.filter(|batch| !self.held.contains(&batch.id())).map(encoded).collect();
        if new.is_empty() { Plan::Nothing } else { Plan::Append(new) }
    }

    /// Does it.
    pub(super) fn carry_out(&mut self, plan: Plan) -> io::Result<()> {
        let batches = match plan {
            Plan::Nothing => return Ok(()),
            Plan::Append(mut batches) => {
                // What another plan of the same moment has written meanwhile.
                batches.retain(|(id, _)| !self.held.contains(id));
                batches
            }
            Plan::Rewrite(batches) => {
                self.held.clear();
                self.length = 0;
                batches
            }
        };
        let mut bytes = Vec::new();
        for (_, batch) in &batches {
            bytes.extend_from_slice(&u32::try_from(batch.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(batch);
        }
        // What a write that failed half way has left is overwritten.
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.length += bytes.len() as u64;
        self.held.extend(batches.into_iter().map(|(id, _)| id));
        Ok(())
    }
}

fn batch_at(bytes: &[u8], at: usize) -> Option<(FlowBatch, usize)> {
    let prefix = bytes.get(at..)?.first_chunk::<PREFIX>()?;
    let length =
        usize::try_from(u32::from_be_bytes(*prefix)).ok().filter(|length| *length <= MAX_FROM_NODE)?;
    let start = at + PREFIX;
    let batch = FlowBatch::from_bytes(bytes.get(start..start + length)?).ok()?;
    Some((batch, start + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(sequence: u64) -> FlowBatch {
        FlowBatch { stream: 1, sequence, flows: Vec::new() }
    }

    fn keep(file: &mut SpoolFile, sequences: &[u64]) {
        let batches: Vec<_> = sequences.iter().copied().map(batch).collect();
        let plan = file.plan(batches.iter());
        file.carry_out(plan).unwrap();
    }

    fn reopened(path: &Path, most: usize) -> Vec<u64> {
        SpoolFile::open(path, most).unwrap().1.iter().map(|batch| batch.sequence).collect()
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_the_file_is_empty_when_all_is_confirmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.spool");
        let (mut file, found) = SpoolFile::open(&path, 1 << 20).unwrap();
        assert!(found.is_empty());

        keep(&mut file, &[1, 2]);
        keep(&mut file, &[2, 3]);
        assert_eq!(reopened(&path, 1 << 20), [1, 2, 3]);
        keep(&mut file, &[]);

        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        keep(&mut file, &[4]);
        assert_eq!(reopened(&path, 1 << 20), [4]);
    }

    #[test]
    fn a_torn_end_is_given_up_and_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.spool");
        let (mut file, _) = SpoolFile::open(&path, 1 << 20).unwrap();
        keep(&mut file, &[1, 2]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();

        let (mut file, found) = SpoolFile::open(&path, 1 << 20).unwrap();
        assert_eq!(found.len(), 1);
        keep(&mut file, &[1, 3]);

        assert_eq!(reopened(&path, 1 << 20), [1, 3]);
    }

    #[test]
    fn the_file_does_not_grow_beyond_three_times_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.spool");
        let most = 3 * (batch(1000).to_bytes().len() + PREFIX);
        let (mut file, _) = SpoolFile::open(&path, most).unwrap();

        for n in 1000..1100 {
            keep(&mut file, &[n - 1, n]);
            assert!(std::fs::metadata(&path).unwrap().len() <= 3 * most as u64);
        }

        assert_eq!(reopened(&path, most).last(), Some(&1099));
    }
}
