//! A TCP proxy before a member, that can refuse connections or swallow answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const PASS: u8 = 0;
const SWALLOW: u8 = 1;
const REFUSE: u8 = 2;

pub struct Proxy {
    pub endpoint: String,
    mode: Arc<AtomicU8>,
    cut: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before `https://127.0.0.1:port`.
    pub async fn start(endpoint: &str) -> Self {
        let target = endpoint.strip_prefix("https://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let (mode, cut) = (Arc::<AtomicU8>::default(), Arc::<Notify>::default());
        let (modes, cuts) = (mode.clone(), cut.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if modes.load(Ordering::SeqCst) == REFUSE {
                    continue;
                }
                let Ok(member) = TcpStream::connect(&target).await else {
                    continue;
                };
                tokio::spawn(pass(client, member, modes.clone(), cuts.clone()));
            }
        });
        Self { endpoint, mode, cut, task }
    }

    /// Requests arrive, answers vanish.
    pub fn swallow_answers(&self) {
        self.mode.store(SWALLOW, Ordering::SeqCst);
    }

    /// No connection is left, none is taken.
    pub fn refuse(&self) {
        self.mode.store(REFUSE, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// As at the beginning; connections with swallowed answers are cut.
    pub fn restore(&self) {
        self.cut.notify_waiters();
        self.mode.store(PASS, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut.notify_waiters();
    }
}

async fn pass(client: TcpStream, member: TcpStream, mode: Arc<AtomicU8>, cut: Arc<Notify>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_member, mut to_member) = member.into_split();
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_member.read(&mut buffer).await {
            if mode.load(Ordering::SeqCst) == PASS && to_client.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = cut.notified() => {}
        () = answers => {}
        _ = tokio::io::copy(&mut from_client, &mut to_member) => {}
    }
}
