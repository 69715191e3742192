//! A tiny line-based store over plain TCP: `PUT text` answers `OK`, `LIST` answers the lines and then a line with a dot.
//! It keeps the newest ten thousand lines, so that a load test cannot fill the memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Behaviour;

/// A longer line ends the connection.
const LONGEST_LINE: u64 = 64 * 1024;
/// What is older is dropped.
const MOST_LINES: usize = 10_000;

/// The lines; the lock is held for one push or one copy.
#[derive(Debug, Default)]
pub(crate) struct Store(Mutex<VecDeque<String>>);

impl Store {
    /// Adds a line.
    pub(crate) fn put(&self, line: String) {
        let Ok(mut lines) = self.0.lock() else { return };
        if lines.len() == MOST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// All lines, the oldest first.
    pub(crate) fn list(&self) -> Vec<String> {
        self.0
            .lock()
            .map(|lines| lines.iter().cloned().collect())
            .unwrap_or_default()
    }
}

/// Serves the store until told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    behaviour: Arc<Behaviour>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let behaviour = Arc::clone(&behaviour);
                    connections.spawn(async move { one(stream, &behaviour.store).await.ok() });
                }
            }
        }
    }
    connections.shutdown().await;
}

async fn one(mut stream: TcpStream, store: &Store) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut read).take(LONGEST_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("PUT", text) => {
                store.put(text.to_owned());
                "OK\n".to_owned()
            }
            ("LIST", _) => {
                let mut all = store.list().join("\n");
                if !all.is_empty() {
                    all.push('\n');
                }
                all + ".\n"
            }
            (other, _) => format!("ERROR `{other}` is neither PUT nor LIST\n"),
        };
        write.write_all(answer.as_bytes()).await?;
    }
}
