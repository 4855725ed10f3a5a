//! A line between callers and a server on loopback, which can be cut, muted and frozen: what networks do, whatever is spoken.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the line does with what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// The server hears its callers; what it answers is lost.
    Mute,
    /// Nothing arrives, and no connection ends: a black hole.
    Frozen,
    /// The port is closed and all connections are reset.
    Cut,
    /// Whoever calls is answered by something that does not speak HTTP/2.
    Gibberish,
}

#[derive(Clone)]
pub struct Line {
    pub port: u16,
    state: Arc<watch::Sender<State>>,
    listens: watch::Receiver<bool>,
}

#[derive(Clone, Copy)]
struct State {
    way: Way,
    /// Connections of an earlier age are reset.
    age: u64,
}

impl Line {
    /// Listens until the test ends.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, receiver) = watch::channel(State { way: Way::Open, age: 0 });
        let (heard, listens) = watch::channel(true);
        tokio::spawn(listen(listener, server, receiver, heard));
        Self { port, state: Arc::new(sender), listens }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns when the port is open, or closed.
    pub async fn set(&self, way: Way) {
        self.state.send_modify(|state| state.way = way);
        let done = self.listens.clone().wait_for(|listens| *listens == (way != Way::Cut)).await.is_ok();
        assert!(done, "the line is broken");
    }

    /// Resets the connections there are; new ones can be made.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.age += 1);
    }
}

async fn listen(listener: TcpListener, server: u16, mut state: watch::Receiver<State>, listens: watch::Sender<bool>) {
    let port = listener.local_addr().unwrap().port();
    let mut listener = Some(listener);
    loop {
        if state.borrow_and_update().way == Way::Cut {
            listener = None;
            listens.send_replace(false);
            if state.wait_for(|state| state.way != Way::Cut).await.is_err() {
                return;
            }
        }
        if listener.is_none() {
            listener = Some(TcpListener::bind(("127.0.0.1", port)).await.expect("the port is still free"));
            listens.send_replace(true);
        }
        let Some(open) = &listener else { return };
        tokio::select! {
            accepted = open.accept() => {
                let Ok((client, _)) = accepted else { return };
                // Ends with its connection, which is closed or reset.
                tokio::spawn(pass(client, server, state.clone()));
            }
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

async fn pass(mut client: TcpStream, server: u16, mut state: watch::Receiver<State>) -> io::Result<()> {
    // A connection that is dropped is reset.
    client.set_zero_linger()?;
    client.set_nodelay(true)?;
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    server.set_nodelay(true)?;
    let (mut asked, mut told) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let age = state.borrow().age;
    let mut spoiled = false;
    loop {
        let now = *state.borrow_and_update();
        if now.way == Way::Cut || now.age != age || (spoiled && now.way == Way::Open) {
            return Ok(());
        }
        if now.way == Way::Gibberish {
            client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(());
        }
        spoiled |= now.way == Way::Mute;
        let passes = now.way != Way::Frozen;
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return Ok(()) },
            count = client.read(&mut asked), if passes => match count? {
                0 => return Ok(()),
                count => server.write_all(&asked[..count]).await?,
            },
            count = server.read(&mut told), if passes => match count? {
                0 => return Ok(()),
                count if !spoiled => client.write_all(&told[..count]).await?,
                _ => {}
            },
        }
    }
}
