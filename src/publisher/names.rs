//! The names of a config that DNS has to resolve.

use crate::config::Config;
use crate::config::endpoint::Origin;

pub(super) fn origins(config: &Config) -> impl Iterator<Item = &Origin> {
    let endpoints = config.paths.iter().flat_map(|(_, path)| &path.endpoints);
    endpoints.map(|endpoint| &endpoint.origin)
}

pub(super) fn is_name(origin: &Origin) -> bool {
    match origin {
        Origin::Address(_) => false,
        Origin::Host { .. } | Origin::Service { .. } => true,
    }
}

pub(super) fn is_configured(config: &Config, name: &Origin) -> bool {
    origins(config).any(|origin| origin == name)
}
