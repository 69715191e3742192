//! The access log: lines are put together on the worker's thread in a buffer of its own, and carried to the file by one thread of the
//! process, so that a slow disk never slows a request. What cannot be kept is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::access_record::AccessRecord;
use crate::families;
use crate::metrics::{Registry, SharedCounter};
use crate::timestamp::Timestamps;

/// Where lines go.
#[derive(Debug)]
pub enum Sink {
    /// A file, made with mode 0600 and appended to; made again when somebody has removed or moved it.
    File(PathBuf),
    /// Something already open, such as a pipe or the standard output.
    Open(File),
}

/// How much is kept and how long.
#[derive(Clone, Copy, Debug)]
pub struct AccessLogLimits {
    /// The longest time from the end of a request to the write of its line.
    pub delay: Duration,
    /// How full a worker's buffer gets before it is written without waiting for `delay`, in bytes.
    pub batch: usize,
    /// How much a worker's buffer holds at most, in bytes; lines beyond it are dropped.
    pub buffer: usize,
    /// The size in bytes at which the file is renamed to its name with `.1` (replacing the last such) and begun again.
    pub rotate_at: u64,
}

impl Default for AccessLogLimits {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(100),
            batch: 64 * 1024,
            buffer: 4 * 1024 * 1024,
            rotate_at: 256 * 1024 * 1024,
        }
    }
}

/// The log of one process. Dropping it writes what is there and ends the thread.
#[derive(Debug)]
pub struct AccessLog {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Queue {
    limits: AccessLogLimits,
    buffers: Mutex<Vec<Arc<Mutex<Buffer>>>>,
    /// The writer waits without a time limit, because nothing is to be written.
    asleep: AtomicBool,
    /// Somebody wants the batch now.
    hurry: AtomicBool,
    ending: AtomicBool,
    flushes: Mutex<Flushes>,
    flushed: Condvar,
    writer: Mutex<Option<Thread>>,
    written: SharedCounter,
    full: SharedCounter,
    failed: SharedCounter,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

#[derive(Debug, Default)]
struct Flushes {
    asked: u64,
    done: u64,
}

impl AccessLog {
    /// Opens the sink and starts the thread that writes to it. Lines and losses are counted in `registry`.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not be started.
    pub fn start(sink: Sink, limits: AccessLogLimits, registry: &Registry) -> io::Result<Self> {
        let output = Output::open(sink, limits.rotate_at)?;
        let queue = Arc::new(Queue {
            limits,
            buffers: Mutex::default(),
            asleep: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            flushes: Mutex::default(),
            flushed: Condvar::new(),
            writer: Mutex::default(),
            written: registry.counter(&families::ACCESS_LOG_LINES, &[]),
            full: registry.counter(&families::ACCESS_LOG_DROPPED, &["full"]),
            failed: registry.counter(&families::ACCESS_LOG_DROPPED, &["write_failed"]),
        });
        let own = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || carry(&own, output))?;
        *lock(&queue.writer) = Some(thread.thread().clone());
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    /// The handle for one more worker thread; make it on that thread.
    pub fn worker(&self) -> AccessLogWorker {
        let buffer = Arc::new(Mutex::new(Buffer::default()));
        lock(&self.queue.buffers).push(Arc::clone(&buffer));
        AccessLogWorker {
            queue: Arc::clone(&self.queue),
            buffer,
            timestamps: Rc::default(),
        }
    }

    /// Waits until every line that was written before this call is in the sink, at most `deadline`. Says whether it is.
    pub fn flush(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        let mut flushes = lock(&self.queue.flushes);
        flushes.asked += 1;
        let mine = flushes.asked;
        self.queue.hurry.store(true, Ordering::Release);
        self.queue.wake();
        while flushes.done < mine {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            flushes = self
                .queue
                .flushed
                .wait_timeout(flushes, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.queue.ending.store(true, Ordering::Release);
        self.queue.wake();
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

/// One worker thread's end of the log. Cheap to clone, cannot leave its thread.
#[derive(Clone, Debug)]
pub struct AccessLogWorker {
    queue: Arc<Queue>,
    buffer: Arc<Mutex<Buffer>>,
    timestamps: Rc<std::cell::RefCell<Timestamps>>,
}

impl AccessLogWorker {
    /// Puts a line into the buffer. Never waits for the file.
    pub fn write(&self, record: &AccessRecord<'_>) {
        let mut buffer = lock(&self.buffer);
        if buffer.bytes.len() >= self.queue.limits.buffer {
            drop(buffer);
            self.queue.full.add(1);
            return;
        }
        record.write(&mut buffer.bytes, &mut self.timestamps.borrow_mut());
        buffer.lines += 1;
        let (first, full) = (buffer.lines == 1, buffer.bytes.len() >= self.queue.limits.batch);
        drop(buffer);
        let sleeping = first && self.queue.asleep.swap(false, Ordering::AcqRel);
        let late = full && !self.queue.hurry.swap(true, Ordering::AcqRel);
        if sleeping || late {
            self.queue.wake();
        }
    }
}

impl Queue {
    fn wake(&self) {
        if let Some(writer) = &*lock(&self.writer) {
            writer.unpark();
        }
    }

    fn is_empty(&self) -> bool {
        lock(&self.buffers).iter().all(|buffer| lock(buffer).lines == 0)
    }

    /// Waits for the first line of a batch, then for the batch to fill or its time to pass.
    fn wait(&self) {
        while !self.ending.load(Ordering::Acquire) && !self.hurry.load(Ordering::Acquire) {
            // Told first, looked at second: a line that is added between is either seen here or wakes this thread.
            self.asleep.store(true, Ordering::Release);
            if !self.is_empty() {
                self.asleep.store(false, Ordering::Release);
                break;
            }
            std::thread::park();
        }
        self.asleep.store(false, Ordering::Release);
        let until = Instant::now() + self.limits.delay;
        while !self.ending.load(Ordering::Acquire) && !self.hurry.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        self.hurry.store(false, Ordering::Release);
    }
}

/// The writer thread: until the log ends and nothing is left.
fn carry(queue: &Queue, mut output: Output) {
    let mut batch = Buffer::default();
    loop {
        let ending = queue.ending.load(Ordering::Acquire);
        let asked = lock(&queue.flushes).asked;
        let buffers = lock(&queue.buffers).clone();
        for buffer in &buffers {
            // The empty buffer that goes in has the room of the last one, so that workers do not allocate.
            std::mem::swap(&mut *lock(buffer), &mut batch);
            if batch.lines > 0 {
                match output.write(&batch.bytes) {
                    Ok(()) => queue.written.add(batch.lines),
                    Err(error) => {
                        queue.failed.add(batch.lines);
                        output.complain(&error);
                    }
                }
            }
            batch.bytes.clear();
            batch.bytes.shrink_to(queue.limits.batch.saturating_mul(4));
            batch.lines = 0;
        }
        drop_closed(queue, buffers);
        let mut flushes = lock(&queue.flushes);
        flushes.done = flushes.done.max(asked);
        drop(flushes);
        queue.flushed.notify_all();
        if ending {
            return;
        }
        queue.wait();
    }
}

/// Forgets the buffers of workers that are gone and have nothing left.
fn drop_closed(queue: &Queue, seen: Vec<Arc<Mutex<Buffer>>>) {
    drop(seen);
    lock(&queue.buffers).retain(|buffer| Arc::strong_count(buffer) > 1 || lock(buffer).lines > 0);
}

/// The file, and what is needed to keep it whole.
#[derive(Debug)]
struct Output {
    file: File,
    path: Option<PathBuf>,
    size: u64,
    rotate_at: u64,
    looked: Instant,
    /// The last write ended within a line.
    broken: bool,
    complained: Option<Instant>,
}

impl Output {
    fn open(sink: Sink, rotate_at: u64) -> io::Result<Self> {
        let (file, path) = match sink {
            Sink::File(path) => (open_file(&path)?, Some(path)),
            Sink::Open(file) => (file, None),
        };
        let size = if path.is_some() { file.metadata()?.len() } else { 0 };
        Ok(Self {
            file,
            path,
            size,
            rotate_at,
            looked: Instant::now(),
            broken: false,
            complained: None,
        })
    }

    /// Writes whole lines. After a write that failed half-way the next one begins a new line, so that only one line is unreadable.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.look_after_file()?;
        if self.broken {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.broken = false;
        }
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.size += count as u64;
                    let (done, rest) = bytes.split_at(count.min(bytes.len()));
                    self.broken = done.last() != Some(&b'\n');
                    bytes = rest;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Begins the file again when it is too large, or when it is no longer what its name names.
    fn look_after_file(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        if self.size >= self.rotate_at {
            let mut old = path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(path, old)?;
        } else if self.looked.elapsed() < Duration::from_secs(1) {
            return Ok(());
        } else {
            self.looked = Instant::now();
            let own = self.file.metadata()?;
            match std::fs::metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.file = open_file(path)?;
        self.size = self.file.metadata()?.len();
        self.broken = false;
        Ok(())
    }

    /// Says that lines are lost, at most once a minute.
    fn complain(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self
            .complained
            .is_none_or(|last| now.duration_since(last) >= Duration::from_mins(1))
        {
            self.complained = Some(now);
            tracing::warn!(%error, path = ?self.path, "access log lines are lost: writing failed");
        }
    }
}

fn open_file(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
