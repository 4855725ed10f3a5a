//! The maintenance lock as a value: what each call makes of it, by the rules of the contract. No clock: `now` is an argument,
//! a length of time since some beginning, so that nothing here can depend on what day it is.

use std::time::Duration;

use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::{ExpiryPolicy, LockPurpose};

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Terms {
    pub principal: String,
    pub holder_id: String,
    pub purpose: LockPurpose,
    pub reason: String,
    pub operation: String,
    pub ttl: Duration,
    pub policy: ExpiryPolicy,
    /// Empty: none was sent.
    pub request_id: String,
}

#[derive(Debug, Clone)]
pub struct Lease {
    pub terms: Terms,
    /// The secret of its holder.
    pub lease_id: String,
    pub fencing_token: i64,
    pub acquired: Duration,
    pub renewed: Duration,
    pub end: Duration,
}

impl Lease {
    fn over(&self, now: Duration) -> bool {
        now >= self.end
    }

    fn extend(&mut self, now: Duration) {
        self.renewed = now;
        self.end = now + self.terms.ttl;
    }
}

#[derive(Debug)]
pub enum Refusal {
    Held(Box<Lease>),
    Stale(Box<Lease>),
    RequestIdReused,
    Lost,
    TokenMismatch,
}

#[derive(Debug, Default)]
pub struct Lock {
    /// Newest token granted. It grows for ever; a host that serves more than tests keeps it on disk.
    pub newest: i64,
    /// The last grant, until it is released or another takes its place: also when it is over, for a late renewal.
    lease: Option<Lease>,
    changed: Duration,
}

impl Lock {
    pub fn state(&self, now: Duration) -> State {
        match &self.lease {
            None => State::Free,
            Some(lease) if !lease.over(now) => State::Held,
            Some(lease) if lease.terms.policy == ExpiryPolicy::Hold => State::Stale,
            Some(_) => State::Free,
        }
    }

    /// Who has the lock, as others may know it.
    pub fn holder(&self, now: Duration) -> Option<&Lease> {
        self.lease.as_ref().filter(|_| self.state(now) != State::Free)
    }

    /// When the lease at hand is over, if it is not yet.
    pub fn end(&self, now: Duration) -> Option<Duration> {
        self.lease.as_ref().map(|lease| lease.end).filter(|&end| end > now)
    }

    pub fn changed(&self, now: Duration) -> Duration {
        self.lease.as_ref().map(|lease| lease.end).filter(|&end| end <= now).map_or(self.changed, |end| end.max(self.changed))
    }

    pub fn acquire(&mut self, now: Duration, terms: Terms) -> Result<Lease, Refusal> {
        let state = self.state(now);
        if let Some(lease) = &mut self.lease {
            let same_caller = lease.terms.principal == terms.principal;
            let repeated = same_caller && !terms.request_id.is_empty() && lease.terms.request_id == terms.request_id;
            match state {
                State::Held if repeated => {
                    let same = |terms: &Terms| (terms.holder_id.clone(), terms.purpose, terms.policy);
                    if same(&lease.terms) != same(&terms) {
                        return Err(Refusal::RequestIdReused);
                    }
                    (lease.terms.ttl, lease.terms.reason) = (terms.ttl, terms.reason);
                    lease.extend(now);
                    self.changed = now;
                    return Ok(lease.clone());
                }
                State::Held => return Err(Refusal::Held(Box::new(lease.clone()))),
                State::Stale if !(same_caller && lease.terms.holder_id == terms.holder_id) => {
                    return Err(Refusal::Stale(Box::new(lease.clone())));
                }
                _ => {}
            }
        }
        self.newest += 1;
        let end = now + terms.ttl;
        let lease = Lease { terms, lease_id: secret(), fencing_token: self.newest, acquired: now, renewed: now, end };
        self.lease = Some(lease.clone());
        self.changed = now;
        Ok(lease)
    }

    /// Also after its end, as long as nobody else was granted the lock.
    pub fn renew(&mut self, now: Duration, lease_id: &str, ttl: Option<Duration>, reason: &str) -> Result<Lease, Refusal> {
        let lease = self.lease.as_mut().filter(|lease| lease.lease_id == lease_id).ok_or(Refusal::Lost)?;
        if let Some(ttl) = ttl {
            lease.terms.ttl = ttl;
        }
        if !reason.is_empty() {
            reason.clone_into(&mut lease.terms.reason);
        }
        lease.extend(now);
        self.changed = now;
        Ok(lease.clone())
    }

    /// A lease that is not the present one is nobody's any more: nothing happens.
    pub fn release(&mut self, now: Duration, lease_id: &str) {
        if self.lease.as_ref().is_some_and(|lease| lease.lease_id == lease_id) {
            self.lease = None;
            self.changed = now;
        }
    }

    pub fn force_release(&mut self, now: Duration, fencing_token: i64) -> Result<(), Refusal> {
        self.holder(now).filter(|holder| holder.fencing_token == fencing_token).ok_or(Refusal::TokenMismatch)?;
        self.lease = None;
        self.changed = now;
        Ok(())
    }
}

/// 128 random bits in hexadecimal digits.
fn secret() -> String {
    let bytes: [u8; 16] = ring::rand::generate(&ring::rand::SystemRandom::new()).unwrap().expose();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
