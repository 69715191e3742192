//! The worker threads: one operating system thread each, with a runtime of its own; a connection stays on its thread.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::drain::Stage;
use crate::listen::{self, Role};
use crate::shared::Shared;
use crate::worker::Worker;

/// Questions of the proxy's own endpoint that may wait.
const MOST_QUESTIONS: usize = 4;

/// What is open, as a worker tells it.
pub(crate) type Open = Vec<serde_json::Value>;

/// The running threads.
#[derive(Debug)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    questions: Vec<mpsc::Sender<oneshot::Sender<Open>>>,
    ended: mpsc::Receiver<std::convert::Infallible>,
}

impl Workers {
    /// Starts `count` threads that share the listeners.
    ///
    /// # Errors
    /// When a thread or another descriptor of a listener cannot be made.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        listeners: &[(TcpListener, Role)],
        count: u32,
    ) -> io::Result<Self> {
        let (alive, ended) = mpsc::channel(1);
        let mut workers = Self {
            threads: Vec::new(),
            questions: Vec::new(),
            ended,
        };
        for number in 0..count.max(1) {
            let listeners = listeners
                .iter()
                .map(|(listener, role)| Ok((listener.try_clone()?, *role)))
                .collect::<io::Result<Vec<_>>>()?;
            let (ask, questions) = mpsc::channel(MOST_QUESTIONS);
            let (shared, alive) = (Arc::clone(shared), alive.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    if let Err(error) = run(shared, listeners, questions) {
                        tracing::error!("worker {number}: {error}");
                    }
                    drop(alive);
                })?;
            workers.threads.push(thread);
            workers.questions.push(ask);
        }
        Ok(workers)
    }

    /// Ways to ask each worker what is open.
    pub(crate) fn questions(&self) -> Vec<mpsc::Sender<oneshot::Sender<Open>>> {
        self.questions.clone()
    }

    /// Ends when every thread has ended. Cancel safe.
    pub(crate) async fn ended(&mut self) {
        // Nothing is ever sent: the channel closes with the last thread.
        self.ended.recv().await;
    }

    /// Waits for the threads, which have been told to stop.
    pub(crate) fn join(self) {
        for thread in self.threads {
            // A thread that panicked is gone as well.
            let _ = thread.join();
        }
    }
}

fn run(
    shared: Arc<Shared>,
    listeners: Vec<(TcpListener, Role)>,
    mut questions: mpsc::Receiver<oneshot::Sender<Open>>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let drain = shared.drain.clone();
        let worker = Worker::new(shared);
        let mut care = JoinSet::new();
        care.spawn_local(Rc::clone(&worker).look_after());
        let mut doors = JoinSet::new();
        for (listener, role) in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            doors.spawn_local(listen::accept(Rc::clone(&worker), listener, role));
        }
        let stopping = drain.reached(Stage::Stopping);
        let mut stopping = std::pin::pin!(stopping);
        loop {
            tokio::select! {
                door = doors.join_next() => if door.is_none() { break },
                Some(answer) = questions.recv() => {
                    // Whoever asked may have gone.
                    let _ = answer.send(worker.open_connections());
                }
                () = &mut stopping => break,
            }
        }
        doors.shutdown().await;
        care.shutdown().await;
        Ok(())
    })
}
