//! A DNS server whose zone, mood and TTL a test changes while it runs.
//!
//! One thread on one UDP socket. What no test expects (a query that is not DNS) fails the test when
//! the server is dropped.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, MessageType, Metadata, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::backend::lock;

/// The largest query that it reads: RFC 1035 section 4.2.1.
const DATAGRAM_MAX: usize = 512;
/// Queries that it remembers the time of, for all names together.
const REMEMBERED_MAX: usize = 100_000;

/// How it answers queries for names that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// With what it has.
    #[default]
    Sound,
    /// No such name.
    Nxdomain,
    /// A failure of its own.
    Servfail,
    /// The name has no records.
    Empty,
    /// Not at all.
    Silent,
}

/// A server that answers until it is dropped.
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Zone {
    records: HashMap<String, Vec<RData>>,
    ttl: u32,
    mood: Mood,
    // Of some types only, over the other.
    moods: HashMap<RecordType, Mood>,
    asked: Vec<(String, RecordType, Instant)>,
    faults: Vec<String>,
    is_stopped: bool,
}

impl DnsServer {
    /// A server of no names, with a TTL of zero.
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::<Mutex<Zone>>::default();
        let served = zone.clone();
        let thread = thread::spawn(move || serve(&socket, &served));
        Self { address, zone, thread: Some(thread) }
    }

    /// From now on `name` has these addresses and nothing else.
    pub(crate) fn host(&self, name: &str, addresses: &[&str]) {
        let record = |address: &&str| match address.parse::<IpAddr>().unwrap() {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        self.set(name, addresses.iter().map(record).collect());
    }

    /// From now on `name` has these targets, each of priority, weight, port and name, and nothing
    /// else.
    pub(crate) fn service(&self, name: &str, targets: &[(u16, u16, u16, &str)]) {
        let record = |&(priority, weight, port, target): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
        };
        self.set(name, targets.iter().map(record).collect());
    }

    /// How answers from now on are, for all types of records.
    pub(crate) fn mood(&self, mood: Mood) {
        lock(&self.zone).mood = mood;
    }

    /// How answers from now on are for one type of records.
    pub(crate) fn mood_for(&self, kind: RecordType, mood: Mood) {
        lock(&self.zone).moods.insert(kind, mood);
    }

    /// The TTL of answers from now on.
    pub(crate) fn ttl(&self, seconds: u32) {
        lock(&self.zone).ttl = seconds;
    }

    /// When it was asked for the records of one type of a name.
    pub(crate) fn asked(&self, name: &str, kind: RecordType) -> Vec<Instant> {
        let zone = lock(&self.zone);
        let asked = zone.asked.iter().filter(|(of, k, _)| (of.as_str(), *k) == (name, kind));
        asked.map(|(_, _, at)| *at).collect()
    }

    /// A config's section that has it asked; `lines` are further keys.
    pub(crate) fn section(&self, lines: &str) -> String {
        format!("[dns]\nservers = [\"{}\"]\n{lines}\n", self.address)
    }

    fn set(&self, name: &str, records: Vec<RData>) {
        lock(&self.zone).records.insert(name.to_owned(), records);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        lock(&self.zone).is_stopped = true;
        // Wakes the thread.
        let waker = UdpSocket::bind("127.0.0.1:0").unwrap();
        waker.send_to(&[], self.address).unwrap();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                assert!(ended.is_ok(), "the DNS server panicked");
                let faults = std::mem::take(&mut lock(&self.zone).faults);
                assert!(faults.is_empty(), "at the DNS server: {faults:#?}");
            }
        }
    }
}

fn serve(socket: &UdpSocket, zone: &Mutex<Zone>) {
    // A wake-up that is lost only costs time.
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut datagram = [0; DATAGRAM_MAX];
    loop {
        let received = socket.recv_from(&mut datagram);
        let mut zone = lock(zone);
        if zone.is_stopped {
            return;
        }
        let Ok((length, from)) = received else {
            continue;
        };
        match Message::from_vec(&datagram[..length]) {
            Ok(message) => {
                if let Some(reply) = zone.reply(&message) {
                    // The asker may be gone.
                    let _ = socket.send_to(&reply.to_vec().unwrap(), from);
                }
            }
            Err(error) => zone.faults.push(error.to_string()),
        }
    }
}

impl Zone {
    fn reply(&mut self, message: &Message) -> Option<Message> {
        let [query] = &message.queries[..] else {
            self.faults.push(format!("{} questions", message.queries.len()));
            return None;
        };
        let name = query.name().to_ascii().trim_end_matches('.').to_lowercase();
        let kind = query.query_type();
        if self.asked.len() < REMEMBERED_MAX {
            self.asked.push((name.clone(), kind, Instant::now()));
        }
        let mood = self.moods.get(&kind).copied().unwrap_or(self.mood);
        let (code, answers) = match (mood, self.records.get(&name)) {
            (Mood::Silent, _) => return None,
            (Mood::Servfail, _) => (ResponseCode::ServFail, Vec::new()),
            (Mood::Nxdomain, _) | (Mood::Sound | Mood::Empty, None) => {
                (ResponseCode::NXDomain, Vec::new())
            }
            (Mood::Empty, Some(_)) => (ResponseCode::NoError, Vec::new()),
            (Mood::Sound, Some(records)) => {
                let asked = records.iter().filter(|record| record.record_type() == kind);
                (ResponseCode::NoError, asked.cloned().collect())
            }
        };
        Some(self.answer(message, query, code, answers))
    }

    fn answer(
        &self,
        message: &Message,
        query: &Query,
        code: ResponseCode,
        answers: Vec<RData>,
    ) -> Message {
        let mut metadata = Metadata::response_from_request(&message.metadata);
        metadata.recursion_available = true;
        metadata.response_code = code;
        let mut reply = Message::new(metadata.id, MessageType::Response, metadata.op_code);
        reply.metadata = metadata;
        reply.add_query(query.clone());
        let name = query.name();
        reply.add_answers(
            answers.into_iter().map(|of| Record::from_rdata(name.clone(), self.ttl, of)),
        );
        reply
    }
}
