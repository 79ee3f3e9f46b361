//! One lookup of a name: its addresses, or a service's targets and theirs, and how long they hold.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use futures_util::future::{join, join_all};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::config::Dns;
use crate::config::endpoint::Origin;
use crate::upstream::locate::{Host, MEMBERS_MAX};

/// What a name stands for, and for how long.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its hosts; at least one has an address.
    pub hosts: Vec<Host>,
    /// How long that may be relied on.
    pub ttl: Duration,
}

/// A name without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("can't resolve {name}: {why}")]
pub struct Unresolved {
    /// The name.
    pub name: String,
    /// What the resolver says.
    pub why: String,
}

/// Resolves a name once.
///
/// # Errors
/// When there is no answer in `timeout` of the settings, or none with an address.
pub async fn lookup(origin: &Origin, dns: &Dns) -> Result<Answer, Unresolved> {
    let unresolved = |why: String| Unresolved { name: origin.to_string(), why };
    let (hosts, ttl) = ask(origin, dns).await.map_err(unresolved)?;
    if hosts.iter().all(|host| [&host.v6, &host.v4].into_iter().flatten().all(Vec::is_empty)) {
        return Err(unresolved("it has no address".to_owned()));
    }
    // What could not be told is asked for again soon.
    let is_whole = hosts.iter().all(|host| host.v6.is_some() && host.v4.is_some());
    let ttl = if is_whole { ttl.clamp(dns.ttl_min, dns.ttl_max) } else { dns.ttl_min };
    Ok(Answer { hosts, ttl })
}

/// Resolves names on the control plane's runtime for a thread that may block.
///
/// # Errors
/// The first name that has no answer.
pub fn lookup_blocking(
    control: &Handle,
    origins: Vec<Origin>,
    dns: &Dns,
) -> Result<Vec<(Origin, Answer)>, Unresolved> {
    let Some(first) = origins.first().map(ToString::to_string) else {
        return Ok(Vec::new());
    };
    let (answers, answered) = sync_channel(1);
    // A service takes two lookups, one after the other.
    let (settings, limit) = (dns.clone(), 3 * dns.timeout);
    control.spawn(async move {
        let lookups = origins.into_iter().map(async |origin| {
            let answer = lookup(&origin, &settings).await?;
            Ok((origin, answer))
        });
        let found: Result<Vec<_>, _> = join_all(lookups).await.into_iter().collect();
        // Nobody listens any more if that took too long.
        let _ = answers.send(found);
    });
    // The runtime itself may be busy or gone, so its own timeouts are not enough.
    let late = |_| Unresolved { name: first, why: "the control plane does not answer".to_owned() };
    answered.recv_timeout(limit).map_err(late)?
}

async fn ask(origin: &Origin, dns: &Dns) -> Result<(Vec<Host>, Duration), String> {
    // Made anew each time, as /etc/resolv.conf and /etc/hosts may have changed.
    let resolver = resolver(dns).map_err(|error| error.to_string())?;
    match origin {
        Origin::Address(address) => Err(format!("{address} is no name")),
        Origin::Host { name, port } => {
            let host = Host {
                name: name.clone(),
                port: *port,
                priority: 0,
                weight: 1,
                v6: None,
                v4: None,
            };
            let (host, ttl) = ask_host(&resolver, host, dns).await?;
            Ok((vec![host], ttl))
        }
        Origin::Service { name } => ask_service(&resolver, name, dns).await,
    }
}

/// The targets of a service. One whose own name has no answer has no addresses for now.
async fn ask_service(
    resolver: &TokioResolver,
    name: &str,
    dns: &Dns,
) -> Result<(Vec<Host>, Duration), String> {
    let (records, ttl) = ask_records(resolver, name, RecordType::SRV, dns).await?;
    if records.len() > MEMBERS_MAX {
        tracing::warn!(name, found = records.len(), used = MEMBERS_MAX, "too many targets");
    }
    let services = records.iter().filter_map(|record| match record {
        RData::SRV(service) => Some(service),
        _ => None,
    });
    let hosts = join_all(services.take(MEMBERS_MAX).map(async |service| {
        let name = service.target.to_string();
        let (port, priority, weight) = (service.port, service.priority, service.weight);
        let host = Host { name, port, priority, weight, v6: None, v4: None };
        ask_host(resolver, host.clone(), dns).await.unwrap_or((host, dns.ttl_min))
    }))
    .await;
    let ttl = hosts.iter().map(|(_, ttl)| *ttl).min().map_or(ttl, |hosts| hosts.min(ttl));
    Ok((hosts.into_iter().map(|(host, _)| host).collect(), ttl))
}

/// Both families, each by itself: a server that is silent or broken for the one may know the other.
async fn ask_host(
    resolver: &TokioResolver,
    host: Host,
    dns: &Dns,
) -> Result<(Host, Duration), String> {
    let ask = |kind| ask_records(resolver, &host.name, kind, dns);
    let (v6, v4) = join(ask(RecordType::AAAA), ask(RecordType::A)).await;
    if let (Err(why), Err(_)) = (&v6, &v4) {
        return Err(why.clone());
    }
    let ttl = [&v6, &v4].into_iter().flatten().map(|(_, ttl)| *ttl).min();
    let addresses = |found: Result<(Vec<RData>, Duration), String>| {
        let (records, _) = found.ok()?;
        let addresses = records.iter().filter_map(|record| match record {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        });
        Some(addresses.take(MEMBERS_MAX).collect())
    };
    let host = Host { v6: addresses(v6), v4: addresses(v4), ..host };
    Ok((host, ttl.unwrap_or(dns.ttl_min)))
}

/// Records of one type, and how long they hold; that there are none is an answer, too.
async fn ask_records(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
    dns: &Dns,
) -> Result<(Vec<RData>, Duration), String> {
    match timeout(dns.timeout, resolver.lookup(name, kind)).await {
        Err(_late) => Err(format!("no answer in {:?}", dns.timeout)),
        Ok(Err(error)) if error.is_no_records_found() => Ok((Vec::new(), dns.ttl_max)),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(found)) => {
            let left = found.valid_until().saturating_duration_since(Instant::now().into_std());
            Ok((found.answers().iter().map(|record| record.data.clone()).collect(), left))
        }
    }
}

fn resolver(dns: &Dns) -> Result<TokioResolver, NetError> {
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let provider = TokioRuntimeProvider::default();
        TokioResolver::builder_with_config(config, provider)
    };
    let options: &mut ResolverOpts = builder.options_mut();
    // Each answer is used until its end, so there is nothing to keep.
    options.cache_size = 0;
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}
