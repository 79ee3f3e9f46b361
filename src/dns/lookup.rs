//! One lookup of a name: its addresses, or a service's targets and theirs, and how long they hold.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::config::Dns;
use crate::config::endpoint::Origin;
use crate::upstream::locate::{Location, MEMBERS_MAX, ServiceTarget, of_host, of_service};

/// What a name stands for, and for how long.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its endpoints; at least one.
    pub locations: Vec<Location>,
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
    let answer = match timeout(dns.timeout, ask(origin, dns)).await {
        Err(_) => return Err(unresolved(format!("no answer in {:?}", dns.timeout))),
        Ok(Err(error)) => return Err(unresolved(error.to_string())),
        Ok(Ok(answer)) => answer,
    };
    if answer.locations.is_empty() {
        return Err(unresolved("it has no address".to_owned()));
    }
    Ok(answer)
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
    let (settings, limit) = (dns.clone(), 2 * dns.timeout);
    control.spawn(async move {
        let lookups = origins.into_iter().map(|origin| {
            let settings = &settings;
            async move { lookup(&origin, settings).await.map(|answer| (origin, answer)) }
        });
        let found: Result<Vec<_>, _> = join_all(lookups).await.into_iter().collect();
        // Nobody listens any more if that took too long.
        let _ = answers.send(found);
    });
    // The runtime itself may be busy or gone, so its own timeouts are not enough.
    let late = |_| Unresolved { name: first, why: "the control plane does not answer".to_owned() };
    answered.recv_timeout(limit).map_err(late)?
}

async fn ask(origin: &Origin, dns: &Dns) -> Result<Answer, NetError> {
    // Made anew each time, as /etc/resolv.conf and /etc/hosts may have changed.
    let resolver = resolver(dns)?;
    let (mut locations, ttl) = match origin {
        Origin::Address(address) => (of_host("", address.port(), &[address.ip()]), dns.ttl_max),
        Origin::Host { name, port } => {
            let (addresses, ttl) = ask_host(&resolver, name).await?;
            (of_host(name, *port, &addresses), ttl)
        }
        Origin::Service { name } => ask_service(&resolver, name).await?,
    };
    if locations.len() > MEMBERS_MAX {
        tracing::warn!(name = %origin, found = locations.len(), used = MEMBERS_MAX, "too many addresses");
        locations.truncate(MEMBERS_MAX);
    }
    Ok(Answer { locations, ttl: ttl.clamp(dns.ttl_min, dns.ttl_max) })
}

async fn ask_host(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Vec<IpAddr>, Duration), NetError> {
    let found = resolver.lookup_ip(name).await?;
    let left = found.valid_until().saturating_duration_since(Instant::now().into_std());
    Ok((found.iter().collect(), left))
}

/// A target whose own name has no answer is left out, as long as others have one.
async fn ask_service(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Vec<Location>, Duration), NetError> {
    let found = resolver.srv_lookup(name).await?;
    let mut ttl = found.valid_until().saturating_duration_since(Instant::now().into_std());
    let services = found.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(service) => Some(service),
        _ => None,
    });
    let targets = join_all(services.take(MEMBERS_MAX).map(|service| async move {
        let name = service.target.to_string();
        let found = ask_host(resolver, &name).await;
        (service, name, found)
    }))
    .await;
    let mut located = Vec::new();
    let mut failure = None;
    for (service, name, found) in targets {
        match found {
            Ok((addresses, left)) => {
                ttl = ttl.min(left);
                let (port, priority, weight) = (service.port, service.priority, service.weight);
                located.push(ServiceTarget { name, port, priority, weight, addresses });
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if located.is_empty() => Err(error),
        Some(_) | None => Ok((of_service(&located), ttl)),
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
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
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
