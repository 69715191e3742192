//! Whether a failed try may be sent again: only what was provably not processed.

/// How a try ended without a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Failure {
    /// No connection, or no TLS session, came about.
    Connect,
    /// HTTP/2 `RST_STREAM` with `REFUSED_STREAM` (RFC 9113 §8.7).
    RefusedStream,
    /// HTTP/2 `GOAWAY` whose last stream is before this one (RFC 9113 §6.8).
    GoawayBeforeStream,
    /// A pooled connection was closed before any byte of the request was written to it.
    ClosedUnwritten,
    /// Anything after a byte of the request was written: it may have been processed.
    Sent,
}

/// Whether to try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Retry {
    /// On another endpoint, if there is one.
    Again,
    /// Not.
    Stop(Stop),
}

/// Why a request is not tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum Stop {
    /// The server may have processed it.
    #[error("the request may have been processed")]
    MayBeProcessed,
    /// The limit is reached.
    #[error("the request was tried as often as allowed")]
    Limit,
}

/// Whether a request may be sent once more. `tries` is how often it was tried, `most` how often it may be.
pub fn retry(tries: u32, most: u32, failure: Failure) -> Retry {
    match failure {
        Failure::Sent => Retry::Stop(Stop::MayBeProcessed),
        Failure::Connect
        | Failure::RefusedStream
        | Failure::GoawayBeforeStream
        | Failure::ClosedUnwritten => {
            if tries < most {
                Retry::Again
            } else {
                Retry::Stop(Stop::Limit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_provably_not_processed_is_sent_again() {
        for failure in [
            Failure::Connect,
            Failure::RefusedStream,
            Failure::GoawayBeforeStream,
            Failure::ClosedUnwritten,
        ] {
            assert_eq!(retry(1, 3, failure), Retry::Again);
            assert_eq!(retry(2, 3, failure), Retry::Again);
            assert_eq!(retry(3, 3, failure), Retry::Stop(Stop::Limit));
            assert_eq!(retry(1, 0, failure), Retry::Stop(Stop::Limit));
        }
        assert_eq!(retry(1, 3, Failure::Sent), Retry::Stop(Stop::MayBeProcessed));
    }
}
