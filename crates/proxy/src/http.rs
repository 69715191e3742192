//! Connections that carry HTTP: request after request on HTTP/1, streams beside each other on HTTP/2, until the client
//! leaves, is silent for too long, the policy changes against it, or the proxy goes.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bartizan_telemetry::families;
use bartizan_wire::h1::{self, HeadError, Limits};
use bartizan_wire::h2::{self, ServerStream};
use bartizan_wire::head::RequestHead;
use bartizan_wire::stream::{MaybeTls, Prefixed};
use bytes::BytesMut;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::connection::{Connection, Objection};
use crate::drain::Stage;
use crate::request::outcome::count_denied;
use crate::request::{self, After};
use crate::tcp;
use crate::worker::{Registration, What};

/// Seconds that a client may be silent between two requests (Envoy's default).
pub(crate) const IDLE: u32 = 3600;
/// Seconds from the first byte of a head to its last.
pub(crate) const HEAD: u32 = 60;
/// Seconds that an idle connection still waits for a request when the proxy goes: who knows that it goes sends none.
const FAREWELL: u32 = 1;
/// How long the HTTP/2 preface may take, and the last bytes of a closing connection.
const SHORTLY: Duration = Duration::from_secs(10);

/// What happens next on an HTTP/1 connection.
enum Next {
    Head(Result<Option<RequestHead>, HeadError>),
    Objection(Objection),
    Over,
}

/// Serves a connection of HTTP/1; `read` has been read from it.
pub(crate) async fn serve_http1(
    connection: Connection,
    registration: Registration,
    io: MaybeTls,
    read: BytesMut,
) {
    let (connection, registration) = (&connection, &registration);
    let mut down = h1::ServerConnection::with_prefix(io, read, Limits::default());
    let mut seen = connection.worker.changes();
    loop {
        let head = match next(connection, registration, &mut down, &mut seen).await {
            Next::Head(Ok(Some(head))) => head,
            Next::Head(Err(HeadError::Parse(error))) => {
                connection.worker.count(
                    &families::REQUESTS_REFUSED,
                    &[connection.door.direction(), "malformed"],
                );
                down.reply_error(error.status()).await;
                break;
            }
            Next::Head(Ok(None) | Err(HeadError::Closed | HeadError::Io(_))) => return,
            Next::Objection(objection) => {
                judged(connection, &objection);
                return;
            }
            Next::Over => break,
        };
        registration.set(What::Request, None);
        if connection.worker.stage() >= Stage::Announcing {
            down.close_after_response();
        }
        match request::serve(connection, &mut down, head).await {
            After::Done if down.keep_alive() => {}
            After::Done => break,
            After::Abort => return,
            After::Upgraded(upgraded) => {
                let (io, read) = down.into_upgraded();
                let io = Prefixed::new(io, read);
                return Box::pin(tcp::carry_upgraded(connection, registration, io, *upgraded)).await;
            }
        }
    }
    down.close(Instant::now() + SHORTLY).await;
}

async fn next(
    connection: &Connection,
    registration: &Registration,
    down: &mut h1::ServerConnection<MaybeTls>,
    seen: &mut u64,
) -> Next {
    let worker = &connection.worker;
    registration.set(What::Waiting, Some(IDLE));
    let (mut has_begun, mut is_leaving) = (false, false);
    poll_fn(|cx| {
        if worker.changes() != *seen {
            *seen = worker.changes();
            if let Err(objection) = connection.judge_again(&worker.engine()) {
                return Poll::Ready(Next::Objection(objection));
            }
        }
        if let Poll::Ready(head) = down.poll_read_head(cx) {
            return Poll::Ready(Next::Head(head));
        }
        if !has_begun && !down.is_idle() {
            has_begun = true;
            registration.set(What::Waiting, Some(HEAD));
        } else if !has_begun && !is_leaving && worker.stage() >= Stage::Draining {
            is_leaving = true;
            registration.set(What::Waiting, Some(FAREWELL));
        }
        if registration.is_over() {
            return Poll::Ready(Next::Over);
        }
        Poll::Pending
    })
    .await
}

/// What happens next on an HTTP/2 connection.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one")]
enum Event {
    Request(RequestHead, ServerStream),
    Ended,
    Objection(Objection),
    Stream(Result<(), JoinError>),
}

/// Serves a connection of HTTP/2.
pub(crate) async fn serve_http2(connection: Connection, registration: Registration, io: Prefixed<MaybeTls>) {
    let connection = Rc::new(connection);
    let worker = &connection.worker;
    let settings = h2::Settings::default();
    let Ok(mut down) = h2::ServerConnection::handshake(io, &settings, Instant::now() + SHORTLY).await else {
        worker.count(
            &families::REQUESTS_REFUSED,
            &[connection.door.direction(), "malformed"],
        );
        return;
    };
    let mut streams: JoinSet<()> = JoinSet::new();
    let mut seen = worker.changes();
    let mut is_leaving = false;
    registration.set(What::Waiting, Some(IDLE));
    loop {
        let event = poll_fn(|cx| {
            if worker.changes() != seen {
                seen = worker.changes();
                if let Err(objection) = connection.judge_again(&worker.engine()) {
                    return Poll::Ready(Event::Objection(objection));
                }
            }
            if !is_leaving && (worker.stage() >= Stage::Announcing || registration.is_over()) {
                is_leaving = true;
                down.graceful_shutdown();
            }
            if let Poll::Ready(Some(ended)) = streams.poll_join_next(cx) {
                return Poll::Ready(Event::Stream(ended));
            }
            down.poll_accept(cx).map(|accepted| match accepted {
                Some(Ok((head, stream))) => Event::Request(head, stream),
                Some(Err(_)) | None => Event::Ended,
            })
        })
        .await;
        match event {
            Event::Request(head, stream) => {
                registration.set(What::Request, None);
                // Boxed before it is handed over, which moves it several times.
                streams.spawn_local(Box::pin(serve_stream(Rc::clone(&connection), head, stream)));
            }
            Event::Stream(ended) => {
                if ended.is_err_and(|error| error.is_panic()) {
                    worker.count(&families::PANICS, &[]);
                }
                if streams.is_empty() {
                    registration.set(What::Waiting, Some(IDLE));
                }
            }
            Event::Objection(objection) => return judged(&connection, &objection),
            Event::Ended => break,
        }
    }
    // The connection is over for both sides; what its streams still do is for nobody.
    streams.shutdown().await;
}

async fn serve_stream(connection: Rc<Connection>, head: RequestHead, mut stream: ServerStream) {
    let registration = connection
        .worker
        .register(connection.remote, connection.local)
        .await;
    registration.set(What::Request, None);
    match request::serve(&connection, &mut stream, head).await {
        After::Done => {}
        After::Abort | After::Upgraded(_) => stream.reset(::h2::Reason::INTERNAL_ERROR),
    }
}

/// An open connection is closed by a change.
fn judged(connection: &Connection, objection: &Objection) {
    if let Objection::Denied(denied) = objection {
        count_denied(connection, "connection", denied);
    }
    count_judged(connection, objection);
    connection.log_judged(objection);
}

/// Counts what a change has ended.
pub(crate) fn count_judged(connection: &Connection, objection: &Objection) {
    connection.worker.count(
        &families::CONNECTIONS_JUDGED,
        &[connection.door.direction(), objection.reason()],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    type Http1 = (Connection, Registration, MaybeTls, BytesMut);
    type Stream = (Rc<Connection>, RequestHead, ServerStream);

    fn size_of_future<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection holds beside its socket, and what a stream costs: a field too much here is paid ten thousand
    /// times.
    #[test]
    fn futures_stay_small() {
        let http1 = size_of_future(|(connection, registration, io, read): Http1| {
            serve_http1(connection, registration, io, read)
        });
        assert!(http1 <= 6 * 1024, "{http1}");
        let stream =
            size_of_future(|(connection, head, stream): Stream| serve_stream(connection, head, stream));
        assert!(stream <= 5 * 1024, "{stream}");
    }
}
