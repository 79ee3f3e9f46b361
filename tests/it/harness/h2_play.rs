//! What a scripted HTTP/2 backend does on one stream, step by step.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::time::sleep;

use super::h2_server::{Fate, Shared, Streamed};
use super::latch::Latch;

/// How often a stream that waits looks at what it waits for.
const LOOK: Duration = Duration::from_millis(2);

/// What a stream gets.
#[derive(Clone, Debug)]
pub(crate) struct Play(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    /// Reads the request's body.
    Take,
    Head(u16, Vec<(&'static str, String)>),
    /// An interim response, 103.
    Hint(&'static str, &'static str),
    /// A head that is all of the response.
    Only(u16),
    Data(Vec<u8>),
    Trailers(Vec<(&'static str, &'static str)>),
    End,
    Until(Latch),
    Reset(Reason),
    /// Sends back what comes, until no more does.
    Echo,
}

impl Play {
    /// Reads the request, then 200 with this body, of known length.
    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        let length = body.as_ref().len().to_string();
        let head = Step::Head(200, vec![("content-length", length)]);
        Self(vec![Step::Take, head]).then(body).and_end()
    }

    /// Reads the request, then a response without a body.
    pub(crate) fn only(status: u16) -> Self {
        Self(vec![Step::Take, Step::Only(status)])
    }

    /// The head of a response, with what else is there before the request has been read.
    pub(crate) fn head(status: u16) -> Self {
        Self(vec![Step::Head(status, Vec::new())])
    }

    /// Resets the stream.
    pub(crate) fn reset(reason: Reason) -> Self {
        Self(vec![Step::Reset(reason)])
    }

    /// Agrees to a tunnel, and sends back what comes.
    pub(crate) fn echo() -> Self {
        Self::head(200).and(Step::Echo)
    }

    /// The same, but not before `latch` lets it.
    pub(crate) fn held_by(mut self, latch: &Latch) -> Self {
        self.0.insert(0, Step::Until(latch.clone()));
        self
    }

    /// Behind an early hint with this field, and not before `latch` lets it.
    pub(crate) fn hinted(self, latch: &Latch, (name, value): (&'static str, &'static str)) -> Self {
        let mut play = self.held_by(latch);
        play.0.insert(0, Step::Hint(name, value));
        play
    }

    /// The head has this field, too.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        for step in &mut self.0 {
            if let Step::Head(_, fields) = step {
                fields.push((name, value.to_owned()));
            }
        }
        self
    }

    /// Then these bytes of the body.
    pub(crate) fn then(self, bytes: impl AsRef<[u8]>) -> Self {
        self.and(Step::Data(bytes.as_ref().to_vec()))
    }

    pub(crate) fn then_until(self, latch: &Latch) -> Self {
        self.and(Step::Until(latch.clone()))
    }

    pub(crate) fn then_reset(self, reason: Reason) -> Self {
        self.and(Step::Reset(reason))
    }

    /// Ends with these.
    pub(crate) fn and_trailers(self, trailers: &[(&'static str, &'static str)]) -> Self {
        self.and(Step::Trailers(trailers.to_vec()))
    }

    pub(crate) fn and_end(self) -> Self {
        self.and(Step::End)
    }

    fn and(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

/// Plays on one stream.
pub(super) struct Actor {
    respond: SendResponse<Bytes>,
    body: RecvStream,
    sending: Option<SendStream<Bytes>>,
    shared: Arc<Shared>,
    stream: usize,
}

impl Actor {
    pub(super) fn new(
        respond: SendResponse<Bytes>,
        body: RecvStream,
        (shared, stream): (Arc<Shared>, usize),
    ) -> Self {
        Self { respond, body, sending: None, shared, stream }
    }

    pub(super) async fn play(mut self, play: Play) {
        let mut fate = Fate::Played;
        for step in play.0 {
            if let Err(ended) = self.act(step).await {
                fate = ended;
                break;
            }
        }
        self.note(|stream| stream.fate = fate);
    }

    fn note(&self, change: impl FnOnce(&mut Streamed)) {
        self.shared.note(self.stream, change);
    }

    async fn act(&mut self, step: Step) -> Result<(), Fate> {
        match step {
            Step::Take => self.take().await,
            Step::Head(status, fields) => self.head(status, fields, false),
            Step::Hint(name, value) => {
                let hint = Response::builder().status(103).header(field_name(name), value);
                let hint = hint.body(()).unwrap();
                self.respond.send_informational(hint).map_err(|error| fate(&error))
            }
            Step::Only(status) => self.head(status, Vec::new(), true),
            Step::Data(bytes) => self.send(bytes.into()).await,
            Step::Trailers(trailers) => self.trailers(&trailers),
            Step::End => self.end(),
            Step::Until(latch) => self.until(|| latch.try_pass()).await,
            Step::Reset(reason) => {
                match &mut self.sending {
                    Some(sending) => sending.send_reset(reason),
                    None => self.respond.send_reset(reason),
                }
                Ok(())
            }
            Step::Echo => self.echo().await,
        }
    }

    async fn take(&mut self) -> Result<(), Fate> {
        while let Some(piece) = self.body.data().await {
            let piece = piece.map_err(|error| fate(&error))?;
            self.body.flow_control().release_capacity(piece.len()).map_err(|e| fate(&e))?;
            self.note(|stream| stream.body.extend_from_slice(&piece));
        }
        let trailers = self.body.trailers().await.map_err(|error| fate(&error))?;
        self.note(|stream| stream.trailers = trailers.as_ref().map(pairs).unwrap_or_default());
        Ok(())
    }

    fn head(
        &mut self,
        status: u16,
        fields: Vec<(&'static str, String)>,
        is_all: bool,
    ) -> Result<(), Fate> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(field_name(name), value);
        }
        let sent = self.respond.send_response(response.body(()).unwrap(), is_all);
        self.sending = Some(sent.map_err(|error| fate(&error))?);
        Ok(())
    }

    fn sending(&mut self) -> &mut SendStream<Bytes> {
        self.sending.as_mut().expect("the head was sent before")
    }

    /// Sends as fast as the proxy's windows open.
    async fn send(&mut self, mut bytes: Bytes) -> Result<(), Fate> {
        while !bytes.is_empty() {
            let sending = self.sending();
            sending.reserve_capacity(bytes.len());
            let room = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await;
            let room = room.ok_or(Fate::Gone)?.map_err(|error| fate(&error))?;
            let piece = bytes.split_to(room.min(bytes.len()));
            sending.send_data(piece, false).map_err(|error| fate(&error))?;
        }
        Ok(())
    }

    fn trailers(&mut self, trailers: &[(&'static str, &'static str)]) -> Result<(), Fate> {
        let field = |&(name, value): &(&'static str, &'static str)| {
            (field_name(name), HeaderValue::from_static(value))
        };
        let trailers: HeaderMap = trailers.iter().map(field).collect();
        self.sending().send_trailers(trailers).map_err(|error| fate(&error))
    }

    fn end(&mut self) -> Result<(), Fate> {
        self.sending().send_data(Bytes::new(), true).map_err(|error| fate(&error))
    }

    async fn echo(&mut self) -> Result<(), Fate> {
        while let Some(piece) = self.body.data().await {
            let piece = piece.map_err(|error| fate(&error))?;
            self.body.flow_control().release_capacity(piece.len()).map_err(|e| fate(&e))?;
            self.note(|stream| stream.body.extend_from_slice(&piece));
            self.send(piece).await?;
        }
        self.end()
    }

    /// How the proxy has ended the stream, if it has.
    fn look(&mut self) -> Option<Fate> {
        let mut cx = Context::from_waker(Waker::noop());
        let reset = match &mut self.sending {
            Some(sending) => sending.poll_reset(&mut cx),
            None => self.respond.poll_reset(&mut cx),
        };
        match reset {
            Poll::Ready(Ok(reason)) => Some(Fate::Reset(reason)),
            Poll::Ready(Err(error)) => Some(fate(&error)),
            Poll::Pending => None,
        }
    }

    /// Waits, and hears if the proxy takes the stream back meanwhile.
    async fn until(&mut self, mut holds: impl FnMut() -> bool) -> Result<(), Fate> {
        loop {
            if let Some(ended) = self.look() {
                return Err(ended);
            }
            if holds() || self.shared.is_stopped() {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }
}

/// As HTTP/2's decoder reads it, which takes more than other ways to make a name.
fn field_name(name: &str) -> HeaderName {
    HeaderName::from_lowercase(name.as_bytes()).unwrap()
}

fn fate(error: &h2::Error) -> Fate {
    match error.reason().filter(|_| error.is_reset()) {
        Some(reason) => Fate::Reset(reason),
        None => Fate::Gone,
    }
}

/// The lines of a head, as text.
pub(super) fn pairs(fields: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}
