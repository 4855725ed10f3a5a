//! A way to PostgreSQL that is cut off in the COMMIT of a restore, holds a statement back, or swallows everything.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::world::eventually;

/// COMMIT as a simple query: PostgreSQL, "Frontend/Backend Protocol", message Query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// Where the connection is cut.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// The server never hears of the COMMIT.
    BeforeItArrives,
    /// The server has committed, and its answer is lost.
    BeforeItsAnswer,
    /// As soon as it is sent.
    AtOnce,
}

/// What is passed on at present.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Open,
    /// Nothing of a connection on which a statement with these words was sent; nor the statement itself, when `before`.
    Hold {
        words: &'static str,
        before: bool,
    },
    /// Nothing. Connections are taken, and stay silent.
    Silent,
}

struct Plan {
    next: Mutex<Option<Cut>>,
    cuts: AtomicU32,
    way: watch::Sender<Way>,
    held: AtomicU32,
}

impl Plan {
    fn new() -> Self {
        Self { next: Mutex::default(), cuts: AtomicU32::new(0), way: watch::Sender::new(Way::Open), held: AtomicU32::new(0) }
    }

    /// Waits for as long as this is not to be passed on.
    async fn may_pass(&self, unless: impl Fn(Way) -> bool) {
        // The sender is ours.
        let _ = self.way.subscribe().wait_for(|way| !unless(*way)).await;
    }
}

pub struct Proxy {
    pub port: u16,
    plan: Arc<Plan>,
}

impl Proxy {
    /// Listens until the test ends.
    pub async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, plan) = (listener.local_addr().unwrap().port(), Arc::new(Plan::new()));
        let shared = plan.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Ends with its connection, which is cut or closed.
                tokio::spawn(pass(client, server, shared.clone()));
            }
        });
        Self { port, plan }
    }

    pub fn cut_next_commit(&self, cut: Cut) {
        *self.plan.next.lock().unwrap() = Some(cut);
    }

    /// From here every connection on which a statement with these words is sent is held: with `before`, the server does
    /// not even get the statement.
    pub fn hold(&self, words: &'static str, before: bool) {
        self.plan.held.store(0, Ordering::Relaxed);
        self.plan.way.send_replace(Way::Hold { words, before });
    }

    /// Until so many connections are held.
    pub async fn until_held(&self, count: u32) {
        eventually(Duration::from_secs(60), || (self.plan.held.load(Ordering::Relaxed) >= count).then_some(())).await;
    }

    /// From here nothing is passed on, and nothing is refused.
    pub fn silence(&self) {
        self.plan.way.send_replace(Way::Silent);
    }

    pub fn open(&self) {
        self.plan.way.send_replace(Way::Open);
    }

    pub fn cuts(&self) -> u32 {
        self.plan.cuts.load(Ordering::Relaxed)
    }
}

async fn pass(mut client: TcpStream, server: u16, plan: Arc<Plan>) -> io::Result<()> {
    plan.may_pass(|way| way == Way::Silent).await;
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut asked, mut told) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    // The first message says who it is.
    let first = client.read(&mut asked).await?;
    let restores = asked[..first].windows(16).any(|part| part == b"holdfast_restore");
    server.write_all(&asked[..first]).await?;
    loop {
        tokio::select! {
            count = client.read(&mut asked) => {
                let message = &asked[..count?];
                if message.is_empty() {
                    return Ok(());
                }
                plan.may_pass(|way| way == Way::Silent).await;
                let way = *plan.way.borrow();
                if let Way::Hold { words, before } = way && message.windows(words.len()).any(|part| part == words.as_bytes()) {
                    if !before {
                        server.write_all(message).await?;
                    }
                    plan.held.fetch_add(1, Ordering::Relaxed);
                    plan.may_pass(|now| now == way).await;
                    if !before {
                        continue;
                    }
                }
                let cut = if restores && message.ends_with(COMMIT) { plan.next.lock().unwrap().take() } else { None };
                let Some(cut) = cut else {
                    server.write_all(message).await?;
                    continue;
                };
                plan.cuts.fetch_add(1, Ordering::Relaxed);
                match cut {
                    Cut::BeforeItArrives => {}
                    Cut::AtOnce => server.write_all(message).await?,
                    Cut::BeforeItsAnswer => {
                        server.write_all(message).await?;
                        let answer = server.read(&mut told).await?;
                        assert!(answer > 0, "the server did not answer");
                    }
                }
                return Ok(());
            }
            count = server.read(&mut told) => {
                let message = &told[..count?];
                if message.is_empty() {
                    return Ok(());
                }
                plan.may_pass(|way| way == Way::Silent).await;
                client.write_all(message).await?;
            }
        }
    }
}
