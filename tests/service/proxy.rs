//! A way to PostgreSQL that is cut off in the COMMIT of a restore.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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

#[derive(Default)]
struct Plan {
    next: Mutex<Option<Cut>>,
    cuts: AtomicU32,
}

pub struct Proxy {
    pub port: u16,
    plan: Arc<Plan>,
}

impl Proxy {
    /// Listens until the test ends.
    pub async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, plan) = (listener.local_addr().unwrap().port(), Arc::new(Plan::default()));
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

    pub fn cuts(&self) -> u32 {
        self.plan.cuts.load(Ordering::Relaxed)
    }
}

async fn pass(mut client: TcpStream, server: u16, plan: Arc<Plan>) -> io::Result<()> {
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
                client.write_all(message).await?;
            }
        }
    }
}
