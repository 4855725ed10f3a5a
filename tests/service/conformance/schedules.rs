//! Random calls in random order, and after each of them the lock is what a model of a few lines says.

use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::{AcquireLockRequest, LockLease};

use super::{Caller, Subject, held, wanted};
use crate::world::rounds;

const STEPS: u32 = 40;

/// Numbers that look random and are the same for the same seed (Steele, Lea and Flood: SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// Who may want the lock: both callers, two instances of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Who {
    caller: usize,
    instance: usize,
}

#[derive(Clone, Debug)]
struct Granted {
    who: Who,
    hold: bool,
    request_id: String,
    lease: LockLease,
}

/// The lock, as the contract has it.
#[derive(Default)]
struct Model {
    newest: i64,
    present: Option<Granted>,
    over: bool,
}

impl Model {
    fn state(&self) -> State {
        match &self.present {
            None => State::Free,
            Some(_) if !self.over => State::Held,
            Some(granted) if granted.hold => State::Stale,
            Some(_) => State::Free,
        }
    }

    /// What a request for the lock is answered with; a lease when it is that of an earlier request.
    fn acquire(&self, who: Who, hold: bool, request_id: &str) -> Result<Option<LockLease>, &'static str> {
        let Some(present) = &self.present else { return Ok(None) };
        let repeated = present.who.caller == who.caller && !request_id.is_empty() && present.request_id == request_id;
        match self.state() {
            State::Held if repeated && (present.who, present.hold) != (who, hold) => Err("INVALID_FIELD"),
            State::Held if repeated => Ok(Some(present.lease.clone())),
            State::Held => Err("LOCK_HELD"),
            State::Stale if present.who != who => Err("LOCK_STALE"),
            _ => Ok(None),
        }
    }

    fn is_present(&self, lease: &LockLease) -> bool {
        self.present.as_ref().is_some_and(|present| present.lease.lease_id == lease.lease_id)
    }
}

pub async fn the_lock_does_what_its_model_does_whatever_is_called(subject: &mut Subject) {
    let callers = [subject.administrator(), subject.update_service()];
    let mut model = Model { newest: callers[0].look().await.fencing_token, ..Model::default() };
    for seed in 0..u64::from(rounds(5, 200)) {
        let mut dice = Dice(seed);
        let mut log = Vec::new();
        let mut grants: Vec<Granted> = Vec::new();
        for step in 0..STEPS {
            let done = act(subject, &callers, &mut model, &mut grants, &mut dice).await;
            log.push(done.unwrap_or_else(|wrong| panic!("seed {seed}, step {step}: {wrong}\n{}", log.join("\n"))));
            let lock = callers[dice.below(2)].look().await;
            let holder = lock.holder.as_ref().map(|holder| (holder.principal.as_str(), holder.holder_id.clone()));
            let present = model.present.as_ref().filter(|_| model.state() != State::Free);
            let wanted = present.map(|granted| (callers[granted.who.caller].principal, name(granted.who)));
            let is = (lock.state(), lock.fencing_token, holder);
            let should = (model.state(), model.newest, wanted);
            assert_eq!(is, should, "seed {seed}, step {step}\n{}", log.join("\n"));
        }
        if let Some(present) = model.present.take() {
            callers[present.who.caller].release(&present.lease).await;
        }
    }
}

fn name(who: Who) -> String {
    format!("instance-{}", who.instance)
}

/// Does something by chance; says what, or what was wrong about its answer.
async fn act(
    subject: &Subject,
    callers: &[Caller; 2],
    model: &mut Model,
    grants: &mut Vec<Granted>,
    dice: &mut Dice,
) -> Result<String, String> {
    let earlier = |dice: &mut Dice, grants: &[Granted]| {
        // Mostly the newest, which is the one that matters.
        let back = dice.below(3).min(grants.len().saturating_sub(1));
        grants.iter().rev().nth(back).cloned()
    };
    match dice.below(10) {
        0..4 => {
            let who = Who { caller: dice.below(2), instance: dice.below(2) };
            let hold = dice.below(2) == 0;
            let request_id = ["", "a", "b"][dice.below(3)];
            let request_id = if request_id.is_empty() { String::new() } else { format!("{request_id}-{}", who.instance) };
            let request = if hold { held(&name(who)) } else { wanted(&name(who)) };
            let request = AcquireLockRequest { request_id: request_id.clone(), ..request };
            let should = model.acquire(who, hold, &request_id);
            let is = callers[who.caller].acquire(request).await;
            let said = format!("acquire {who:?} hold {hold} {request_id:?}: {:?}", is.as_ref().map(|lease| lease.fencing_token));
            match (is, should) {
                (Ok(lease), Ok(Some(same))) if lease.lease_id == same.lease_id && lease.fencing_token == same.fencing_token => {}
                (Ok(lease), Ok(None))
                    if lease.fencing_token > model.newest && !grants.iter().any(|g| g.lease.lease_id == lease.lease_id) =>
                {
                    model.newest = lease.fencing_token;
                    let granted = Granted { who, hold, request_id, lease };
                    grants.push(granted.clone());
                    (model.present, model.over) = (Some(granted), false);
                }
                (Err(refusal), Err(reason)) if refusal.reason == reason => {}
                (is, should) => return Err(format!("{said}\n{is:?} instead of {should:?}")),
            }
            Ok(said)
        }
        4 | 5 => {
            let Some(granted) = earlier(dice, grants) else { return Ok(String::new()) };
            let is = callers[granted.who.caller].renew(&granted.lease).await.map(|lease| lease.fencing_token);
            let should = model.is_present(&granted.lease);
            model.over &= !should;
            let said = format!("renew {}: {is:?}", granted.lease.fencing_token);
            let fits = match &is {
                Ok(token) => should && *token == granted.lease.fencing_token,
                Err(refusal) => !should && refusal.reason == "LEASE_LOST",
            };
            if fits { Ok(said) } else { Err(said) }
        }
        6 => {
            let Some(granted) = earlier(dice, grants) else { return Ok(String::new()) };
            let lock = callers[granted.who.caller].release(&granted.lease).await;
            if model.is_present(&granted.lease) {
                model.present = None;
            }
            let said = format!("release {}: {:?}", granted.lease.fencing_token, lock.state());
            if lock.state() == model.state() { Ok(said) } else { Err(said) }
        }
        7 => {
            // What becomes of the token of a lease that is over, and frees the lock, is nobody's concern.
            if model.over && model.state() == State::Free {
                return Ok(String::new());
            }
            let right = model.present.as_ref().map(|present| present.lease.fencing_token);
            let token = if dice.below(2) == 0 { right.unwrap_or(model.newest.max(1)) } else { model.newest + 1 };
            let is = callers[0].force_release(token).await.map(|lock| lock.state());
            let said = format!("force release {token}: {is:?}");
            let fits = match &is {
                Ok(state) => right == Some(token) && *state == State::Free,
                Err(refusal) => right != Some(token) && refusal.reason == "FENCING_TOKEN_MISMATCH",
            };
            if right == Some(token) {
                model.present = None;
            }
            if fits { Ok(said) } else { Err(said) }
        }
        _ => {
            subject.expire().await;
            model.over |= model.present.is_some();
            Ok("the lease ends".into())
        }
    }
}
