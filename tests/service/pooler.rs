//! A transaction pooler in the way to PostgreSQL: the service must not start. `Pooler` is one, as small as it can be.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::world::World;

/// ReadyForQuery outside a transaction: PostgreSQL, "Frontend/Backend Protocol", as are all messages here.
const IDLE: &[u8] = b"Z\0\0\0\x05I";
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// How it is between a client and the sessions.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Each transaction runs in one of so many sessions of its role: that which was free last, or that which was free first.
    Transactions { sessions: usize, by_turns: bool },
    /// The same, with one session of this role; the other roles have sessions of their own.
    OneOf(&'static str),
    /// A client has its session, and what it set when it connected is dropped.
    WithoutOptions,
    /// What a client sets when it connects is refused, as PgBouncer does.
    Refusing,
}

/// The sessions of a role that no transaction is in.
struct Sessions {
    free: Mutex<VecDeque<TcpStream>>,
    count: Semaphore,
    opened: Mutex<usize>,
}

struct Pooler {
    server: u16,
    manner: Manner,
    roles: Mutex<HashMap<String, Arc<Sessions>>>,
}

impl Pooler {
    /// Listens until the test ends; returns where.
    async fn start(server: u16, manner: Manner) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pooler = Arc::new(Self { server, manner, roles: Mutex::default() });
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let pooler = pooler.clone();
                // Ends with its connection.
                tokio::spawn(async move { pooler.serve(client).await });
            }
        });
        port
    }

    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut startup = vec![0; client.read_u32().await? as usize - 4];
        client.read_exact(&mut startup).await?;
        let role = value_of(&startup, "user").unwrap_or_default();
        match self.manner {
            Manner::Refusing => {
                let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: extra_float_digits\0\0";
                return client.write_all(&message(Some(b'E'), fields)).await;
            }
            Manner::WithoutOptions => startup = without_options(&startup),
            _ => {}
        }
        // Whoever comes proves who he is to the server itself, in a session that all of his role have from then on.
        let mut server = TcpStream::connect(("127.0.0.1", self.server)).await?;
        server.write_all(&message(None, &startup)).await?;
        let shared = match self.manner {
            Manner::Transactions { sessions, by_turns } => Some((sessions, by_turns)),
            Manner::OneOf(one) if role == one => Some((1, false)),
            _ => None,
        };
        let Some((most, by_turns)) = shared else {
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        };
        if !until_idle(&mut client, &mut server).await? {
            return Ok(());
        }
        let sessions = self.sessions(&role);
        if sessions.is_wanted(most) {
            sessions.give_back(server);
        } else {
            server.write_all(TERMINATE).await?;
        }
        let mut asked = vec![0; 1 << 16];
        loop {
            let count = client.read(&mut asked).await?;
            if count == 0 || asked[..count] == *TERMINATE {
                return Ok(());
            }
            let mut server = sessions.take(by_turns).await;
            server.write_all(&asked[..count]).await?;
            if !until_idle(&mut client, &mut server).await? {
                return Ok(());
            }
            sessions.give_back(server);
        }
    }

    fn sessions(&self, role: &str) -> Arc<Sessions> {
        let new = || Arc::new(Sessions { free: Mutex::default(), count: Semaphore::new(0), opened: Mutex::new(0) });
        self.roles.lock().unwrap().entry(role.to_owned()).or_insert_with(new).clone()
    }
}

impl Sessions {
    fn is_wanted(&self, most: usize) -> bool {
        let mut opened = self.opened.lock().unwrap();
        *opened += 1;
        *opened <= most
    }

    fn give_back(&self, server: TcpStream) {
        self.free.lock().unwrap().push_back(server);
        self.count.add_permits(1);
    }

    async fn take(&self, by_turns: bool) -> TcpStream {
        self.count.acquire().await.unwrap().forget();
        let mut free = self.free.lock().unwrap();
        if by_turns { free.pop_front() } else { free.pop_back() }.unwrap()
    }
}

/// Passes on what both say until the server waits for a new transaction. False: one of them is gone.
async fn until_idle(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<bool> {
    let (mut asked, mut told) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            count = client.read(&mut asked) => match count? {
                0 => return Ok(false),
                count => server.write_all(&asked[..count]).await?,
            },
            count = server.read(&mut told) => {
                let count = count?;
                client.write_all(&told[..count]).await?;
                if count == 0 || told[..count].ends_with(IDLE) {
                    return Ok(count > 0);
                }
            }
        }
    }
}

fn message(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    kind.into_iter().chain(length).chain(body.iter().copied()).collect()
}

/// Names and values of a StartupMessage, behind the version of the protocol.
fn pairs(startup: &[u8]) -> Vec<(String, String)> {
    let texts: Vec<String> = startup[4..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into()).collect();
    texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).filter(|(name, _)| !name.is_empty()).collect()
}

fn value_of(startup: &[u8], wanted: &str) -> Option<String> {
    pairs(startup).into_iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
}

fn without_options(startup: &[u8]) -> Vec<u8> {
    let kept = pairs(startup).into_iter().filter(|(name, _)| name != "options");
    let kept: String = kept.map(|(name, value)| format!("{name}\0{value}\0")).collect();
    [&startup[..4], kept.as_bytes(), b"\0"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn b20_behind_a_transaction_pooler_the_service_does_not_start_and_changes_nothing() {
    let mut world = World::without_service().await;
    let transactions = |sessions, by_turns| Manner::Transactions { sessions, by_turns };
    let manners = [
        transactions(1, false),
        transactions(2, false),
        transactions(2, true),
        transactions(9, false),
        Manner::OneOf("holdfast_state"),
        Manner::OneOf("holdfast_backup"),
        Manner::OneOf("holdfast_restore"),
        Manner::WithoutOptions,
        Manner::Refusing,
    ];
    for manner in manners {
        world.set("HOLDFAST_DATABASE__PORT", &Pooler::start(world.port(), manner).await.to_string());
        let message = world.start().await.expect_err(&format!("{manner:?}"));
        assert!(message.contains("pooler") && message.contains("connect to PostgreSQL directly"), "{manner:?}: {message}");
        assert_eq!(world.value("select count(*) from pg_namespace where nspname = 'holdfast'").await, "0", "{manner:?}");
        assert_eq!(world.value("select count(*) from pg_tables where schemaname = 'public'").await, "0", "{manner:?}");
    }
    assert!(world.files().is_empty() && world.drafts().is_empty());
    // A way that only passes on what is said is no pooler.
    let way = Pooler::start(world.port(), Manner::OneOf("nobody")).await;
    world.set("HOLDFAST_DATABASE__PORT", &way.to_string());
    world.start().await.unwrap();
    world.backup().await;
}
