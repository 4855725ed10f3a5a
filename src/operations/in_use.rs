//! Which backups are being read in this process, so that nobody removes them meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::BackupId;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InUse(Arc<Mutex<HashMap<BackupId, Use>>>);

#[derive(Debug)]
enum Use {
    /// So many readers.
    Read(usize),
    Removed,
}

/// A backup that is being read or removed for as long as this value lives.
#[derive(Debug)]
pub struct Guard {
    id: BackupId,
    all: InUse,
}

impl InUse {
    /// `None` while the backup is being removed.
    pub fn read(&self, id: &BackupId) -> Option<Guard> {
        self.with(|all| match all.entry(id.clone()).or_insert(Use::Read(0)) {
            Use::Read(readers) => {
                *readers += 1;
                true
            }
            Use::Removed => false,
        })
        .then(|| self.guard(id))
    }

    /// `None` while somebody reads or removes the backup.
    pub fn remove(&self, id: &BackupId) -> Option<Guard> {
        self.with(|all| {
            let free = !all.contains_key(id);
            if free {
                all.insert(id.clone(), Use::Removed);
            }
            free
        })
        .then(|| self.guard(id))
    }

    fn guard(&self, id: &BackupId) -> Guard {
        Guard { id: id.clone(), all: self.clone() }
    }

    fn with<T>(&self, action: impl FnOnce(&mut HashMap<BackupId, Use>) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.all.with(|all| match all.get_mut(&self.id) {
            Some(Use::Read(readers)) if *readers > 1 => *readers -= 1,
            _ => {
                all.remove(&self.id);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f17_what_is_read_is_not_removed_and_what_is_removed_is_not_read() {
        let (all, id) = (InUse::default(), BackupId::new(chrono::DateTime::UNIX_EPOCH, uuid::Uuid::nil()));
        let (first, second) = (all.read(&id).unwrap(), all.read(&id).unwrap());
        drop(first);
        assert!(all.remove(&id).is_none());
        drop(second);
        let removal = all.remove(&id).unwrap();
        assert!(all.read(&id).is_none() && all.remove(&id).is_none());
        drop(removal);
        assert!(all.read(&id).is_some());
    }
}
