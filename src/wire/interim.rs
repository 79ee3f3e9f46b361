//! Interim responses (RFC 9110 section 15.2): a proxy MUST forward them, but for 100, which it answers
//! itself.
//!
//! hyper's HTTP/1 codec skips them on one side and can't write them on the other, so they are read along
//! as they pass, and written around it. What a usual reply pays is a look at one byte.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::wire::exchange::Exchange;
use crate::wire::headers;

/// The largest interim head that is relayed.
const HEAD_MAX: usize = 16 * 1024;
/// More of one response are no hints but a flood.
const INTERIMS_MAX: usize = 32;
/// The most fields of one.
const FIELDS_MAX: usize = 64;
/// Where the first digit of the status is.
const STATUS_AT: usize = "HTTP/1.1 ".len();

/// Reads along on one connection to a backend.
#[derive(Debug, Default)]
pub struct Interims {
    // Whose response comes next; none between requests.
    exchange: RefCell<Option<Rc<Exchange>>>,
    // The beginning of a head that has not come whole.
    held: RefCell<Vec<u8>>,
    // How many more may come of the present response; 0 once its head has come.
    left: Cell<usize>,
}

impl Interims {
    /// The next bytes are the response to `exchange`.
    pub fn await_head(&self, exchange: &Rc<Exchange>) {
        self.left.set(INTERIMS_MAX);
        if exchange.takes_interims() {
            *self.exchange.borrow_mut() = Some(exchange.clone());
        }
    }

    /// These bytes came.
    ///
    /// # Errors
    /// When there is no end to them: reading them would keep a worker from everything else.
    pub fn feed(&self, bytes: &[u8]) -> io::Result<()> {
        if self.left.get() == 0 {
            return Ok(());
        }
        let is_final = bytes.get(STATUS_AT).is_some_and(|digit| *digit != b'1');
        if is_final && self.held.borrow().is_empty() {
            self.end();
            return Ok(());
        }
        self.read(bytes)
    }

    fn read(&self, bytes: &[u8]) -> io::Result<()> {
        let mut held = self.held.borrow_mut();
        held.extend_from_slice(bytes);
        let mut read = 0;
        loop {
            match head(&held[read..]) {
                Head::Partial if held.len() - read <= HEAD_MAX => {
                    held.drain(..read);
                    return Ok(());
                }
                Head::Interim(..) if self.left.get() == 1 => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Head::Interim(length, response) => {
                    read += length;
                    self.left.set(self.left.get() - 1);
                    if let Some(exchange) = &*self.exchange.borrow() {
                        exchange.interim(response);
                    }
                }
                // hyper says what is wrong with it.
                Head::Partial | Head::Final => break,
            }
        }
        *held = Vec::new();
        drop(held);
        self.end();
        Ok(())
    }

    fn end(&self) {
        self.left.set(0);
        *self.exchange.borrow_mut() = None;
    }
}

enum Head {
    Partial,
    /// Of so many bytes.
    Interim(usize, Response<()>),
    /// A final response, a 101, or nothing that is HTTP.
    Final,
}

fn head(bytes: &[u8]) -> Head {
    if bytes.get(STATUS_AT).is_some_and(|digit| *digit != b'1') {
        return Head::Final;
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(_) => return Head::Final,
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let Some(status) = status.filter(|status| is_interim(*status)) else {
        return Head::Final;
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    for field in parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            response.headers_mut().append(name, value);
        }
    }
    Head::Interim(length, response)
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// An interim response as a client gets it; `None` for one that the proxy answers itself.
#[must_use]
pub fn relayed(mut response: Response<()>) -> Option<Response<()>> {
    if response.status() == StatusCode::CONTINUE {
        return None;
    }
    headers::clean_response(response.headers_mut(), false).ok()?;
    response.headers_mut().remove(CONNECTION);
    Some(response)
}

/// An interim response as HTTP/1.1 has it.
#[must_use]
pub fn to_bytes(response: &Response<()>) -> Vec<u8> {
    let status = response.status();
    let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
    if status.canonical_reason().is_none() {
        // http's Display would put its own words there.
        bytes = format!("HTTP/1.1 {} \r\n", status.as_u16()).into_bytes();
    }
    for (name, value) in response.headers() {
        bytes.extend_from_slice(title_case(name.as_str()).as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn title_case(name: &str) -> String {
    let mut begins = true;
    let letter = |letter: char| {
        let cased = if begins { letter.to_ascii_uppercase() } else { letter };
        begins = letter == '-';
        cased
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINTS: &[u8] =
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nConnection: x\r\nx: 1\r\n\r\n";

    fn check(bytes: &[u8], expected: Option<(usize, u16)>) {
        let found = match head(bytes) {
            Head::Interim(length, response) => Some((length, response.status().as_u16())),
            Head::Partial | Head::Final => None,
        };
        assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn an_interim_head_is_told_from_a_final_one_and_from_a_part() {
        check(HINTS, Some((HINTS.len(), 103)));
        check(&[HINTS, b"HTTP/1.1 200 OK\r\n\r\n"].concat(), Some((HINTS.len(), 103)));
        for length in 0..HINTS.len() {
            assert!(matches!(head(&HINTS[..length]), Head::Partial), "{length}");
        }
        check(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", None);
        check(b"HTTP/1.1 200 OK\r\n\r\n", None);
        check(b"nonsense 1 2 3\r\n\r\n", None);
    }

    #[test]
    fn what_is_relayed_is_clean_and_100_is_not() {
        let Head::Interim(_, response) = head(HINTS) else { panic!("not an interim head") };
        let relayed = relayed(response).unwrap();
        let text = String::from_utf8(to_bytes(&relayed)).unwrap();
        assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        let go_on = Response::builder().status(100).body(()).unwrap();
        assert!(super::relayed(go_on).is_none());
        let odd = Response::builder().status(199).body(()).unwrap();
        assert_eq!(to_bytes(&odd), b"HTTP/1.1 199 \r\n\r\n");
    }
}
