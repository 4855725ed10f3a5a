//! The chain of the audit log: each event has a hash over the hash of the event before it and over its own record, so the hash
//! of the newest stands for all of them. Whoever knows one hash of a time knows whether anything up to it was altered since.
//!
//! A record is a JSON array, in the bytes in which it was hashed: `[number, id, time, type, what happened]`. To check the
//! log by other means: begin with 32 zero bytes; the hash of an event is SHA-256(hash before, as 32 bytes, then its record).

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::name::{Malformed, Sha256, malformed};

/// An event as it was chained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub number: i64,
    pub record: String,
    /// `None`: none that can be one.
    pub hash: Option<Sha256>,
}

/// An end of the log: an event, and the hash that stands for all up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub number: i64,
    pub hash: Sha256,
}

/// How a log is not the one that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("event {0} is missing")]
    Missing(i64),
    #[error("events {0} to {1} are missing")]
    MissingMany(i64, i64),
    #[error("event {0} was altered, put in or moved here, or the hash of the one before it was altered")]
    Altered(i64),
    #[error("event {0} was put in after the end of the log, which is event {1}")]
    Beyond(i64, i64),
    #[error("the log ends with event {}, and it should with event {}: those between are gone, or the end was altered", .0.number, .1.number)]
    Cut(Head, Head),
}

impl Head {
    /// Before the first event.
    pub const START: Self = Self { number: 0, hash: Sha256([0; 32]) };

    /// The head once an event with this record came.
    pub fn then(self, number: i64, record: &str) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&self.hash.0);
        context.update(record.as_bytes());
        let mut hash = Sha256([0; 32]);
        hash.0.copy_from_slice(context.finish().as_ref());
        Self { number, hash }
    }

    /// The head once `link` came, if it is what came next.
    pub fn proven(self, link: &Link) -> Result<Self, Broken> {
        let next = self.number + 1;
        let head = self.then(link.number, &link.record);
        match link.number {
            number if number > next + 1 => Err(Broken::MissingMany(next, number - 1)),
            number if number > next => Err(Broken::Missing(next)),
            number if number < next || link.hash != Some(head.hash) => Err(Broken::Altered(number)),
            number if !link.record.starts_with(&format!("[{number},")) => Err(Broken::Altered(number)),
            _ => Ok(head),
        }
    }

    /// Whether this, reached from the start, is the end that the log has.
    pub fn ends(self, end: Self) -> Result<(), Broken> {
        match self.number {
            _ if self == end => Ok(()),
            number if number > end.number => Err(Broken::Beyond(number, end.number)),
            _ => Err(Broken::Cut(self, end)),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for Head {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (number, hash) = text.split_once(':')?;
            Some(Self { number: number.parse().ok()?, hash: hash.parse().ok()? })
        };
        parse().map_or_else(|| malformed(text, "a number, a colon and a SHA-256, as `holdfast audit verify` prints it"), Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: i64) -> Vec<Link> {
        let mut head = Head::START;
        let link = |number| {
            let record = format!("[{number}, \"id\", \"time\", \"test.written\", {{}}]");
            head = head.then(number, &record);
            Link { number, record, hash: Some(head.hash) }
        };
        (1..=count).map(link).collect()
    }

    fn walk(links: &[Link]) -> Result<Head, Broken> {
        links.iter().try_fold(Head::START, Head::proven)
    }

    #[test]
    fn a_chain_is_proven_and_whatever_is_done_to_it_is_named() {
        let whole = log(9);
        let end = walk(&whole).unwrap();
        assert_eq!((end.number, Some(end.hash)), (9, whole[8].hash));
        let changed = |change: &dyn Fn(&mut Vec<Link>)| {
            let mut links = log(9);
            change(&mut links);
            walk(&links).and_then(|found| found.ends(end))
        };
        assert_eq!(changed(&|_| ()), Ok(()));
        assert_eq!(changed(&|links| links[3].record.push(' ')), Err(Broken::Altered(4)));
        assert_eq!(changed(&|links| links[3].hash = None), Err(Broken::Altered(4)));
        assert_eq!(changed(&|links| drop(links.remove(3))), Err(Broken::Missing(4)));
        assert_eq!(changed(&|links| drop(links.drain(0..3))), Err(Broken::MissingMany(1, 3)));
        assert_eq!(changed(&|links| links.insert(4, links[3].clone())), Err(Broken::Altered(4)));
        assert_eq!(changed(&|links| links.swap(3, 4)), Err(Broken::Missing(4)));
        assert_eq!(changed(&|links| links.truncate(7)), Err(Broken::Cut(walk(&whole[..7]).unwrap(), end)));
        assert_eq!(changed(&|links| *links = log(10)), Err(Broken::Beyond(10, 9)));
        // With its own hash made anew it is the next one that does not follow.
        let forge = |links: &mut Vec<Link>| {
            links[3].record.push(' ');
            links[3].hash = Some(walk(&links[..3]).unwrap().then(4, &links[3].record).hash);
        };
        assert_eq!(changed(&forge), Err(Broken::Altered(5)));
    }

    #[test]
    fn a_head_reads_as_it_is_written() {
        let head = Head::START.then(17, "[17, 1]");
        assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
        for wrong in ["", "17", "17:", ":", "x:00", &head.hash.to_string()] {
            assert!(wrong.parse::<Head>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_hash_is_what_the_documentation_says() {
        // (head -c 32 /dev/zero; printf '[1, 2]') | sha256sum
        let head = Head::START.then(1, "[1, 2]");
        assert_eq!(head.hash.to_string(), "e38acfc41e8393d4f671f06965baa811a69aab7d28017b039db74b53b6d6d113");
    }
}
