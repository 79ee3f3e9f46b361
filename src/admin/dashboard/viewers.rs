//! Who watches the dashboard: one stream of server-sent events for each, all fed with the same bytes.
//!
//! Nobody waits for a viewer: one that does not read misses frames, each of which is whole, and gets the
//! next one that it has room for. Streams end with their connections, or at the proxy's end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

/// Viewers at once. A team and its wall screens; far below the connections of the listener, so that no
/// number of open tabs keeps a scrape or an order out.
pub(super) const VIEWERS_MAX: usize = 16;
/// Events that wait for a viewer that does not read, beyond what its socket holds.
const WAITING_MAX: usize = 2;

/// After so many beats without news a viewer gets a frame all the same: only by them does it know that its
/// figures are of now, and proxies in between close what is silent, most of them after a minute.
const KEEP_ALIVE_BEATS: u32 = 5;
/// After so many milliseconds without a frame the page takes its figures for old, and watches anew: twice the
/// time above, and two seconds for the network.
pub(super) const STALE_MS: &str = "12000";

/// All viewers.
#[derive(Debug, Default)]
pub(super) struct Viewers(Mutex<Vec<Seat>>);

#[derive(Debug)]
struct Seat {
    sender: mpsc::Sender<Bytes>,
    // Until then it gets a frame also where nothing has changed.
    has_seen: bool,
    // Beats since the last event.
    silent: u32,
}

/// The body of one viewer's response.
#[derive(Debug)]
pub(crate) struct Stream(mpsc::Receiver<Bytes>);

impl Viewers {
    /// One more; `None` if there are too many.
    pub(super) fn admit(&self) -> Option<Stream> {
        let mut seats = self.seats();
        if seats.len() >= VIEWERS_MAX {
            return None;
        }
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        seats.push(Seat { sender, has_seen: false, silent: 0 });
        Some(Stream(receiver))
    }

    /// Whether anyone watches.
    pub(super) fn is_any(&self) -> bool {
        !self.seats().is_empty()
    }

    /// Sends the event of a beat to all if it is news, else only to those that have seen none yet, or none for
    /// long.
    pub(super) fn send(&self, event: &Bytes, is_news: bool) {
        for Seat { sender, has_seen, silent } in self.seats().iter_mut() {
            *silent += 1;
            if is_news || !*has_seen || *silent >= KEEP_ALIVE_BEATS {
                // One that has no room gets the next.
                *has_seen = sender.try_send(event.clone()).is_ok();
                *silent = 0;
            }
        }
    }

    /// Ends all streams.
    pub(super) fn end(&self) {
        self.seats().clear();
    }

    // Those that have left are found here, whenever anyone looks.
    fn seats(&self) -> MutexGuard<'_, Vec<Seat>> {
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|seat| !seat.sender.is_closed());
        seats
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(stream: &mut Stream) -> Vec<Bytes> {
        std::iter::from_fn(|| stream.0.try_recv().ok()).collect()
    }

    #[test]
    fn viewers_are_bounded_and_leave_room_when_they_go() {
        let viewers = Viewers::default();
        assert!(!viewers.is_any());
        let mut streams: Vec<_> = (0..VIEWERS_MAX).filter_map(|_| viewers.admit()).collect();
        assert_eq!(streams.len(), VIEWERS_MAX);
        assert!(viewers.admit().is_none());
        streams.pop();
        assert!(viewers.admit().is_some());
        drop(streams);
        assert!(!viewers.is_any());
    }

    #[test]
    fn a_viewer_that_does_not_read_misses_frames_and_gets_the_next() {
        let viewers = Viewers::default();
        let [one, two, three, four] =
            ["1", "2", "3", "4"].map(|event| Bytes::from_static(event.as_bytes()));
        let mut slow = viewers.admit().unwrap();
        viewers.send(&one, true);
        viewers.send(&two, true);
        viewers.send(&three, true);
        let mut late = viewers.admit().unwrap();
        viewers.send(&three, false);
        assert_eq!(got(&mut late).as_slice(), std::slice::from_ref(&three));
        assert_eq!(got(&mut slow), [one, two]);
        // It has not seen this one, though it is no news.
        viewers.send(&three, false);
        assert_eq!(got(&mut slow), [three]);
        viewers.send(&four, true);
        viewers.end();
        assert_eq!((got(&mut slow), got(&mut late)), (vec![four.clone()], vec![four]));
    }

    #[test]
    fn a_viewer_without_news_gets_the_frame_of_the_moment_now_and_then() {
        let viewers = Viewers::default();
        let mut stream = viewers.admit().unwrap();
        let mut got_at = Vec::new();
        let event = |beat: u32| Bytes::from(beat.to_string());
        for beat in 0..=2 * KEEP_ALIVE_BEATS {
            viewers.send(&event(beat), false);
            got_at.extend(got(&mut stream));
        }
        assert_eq!(got_at, [0, KEEP_ALIVE_BEATS, 2 * KEEP_ALIVE_BEATS].map(event));
        // The page waits for two of them.
        let stale_ms: u32 = STALE_MS.parse().unwrap();
        assert!(stale_ms > 2 * KEEP_ALIVE_BEATS * 1000);
    }
}
