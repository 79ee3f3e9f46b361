//! Asking other servers, off the data plane: a backend's own metrics page, the operator's webhook, the
//! collector of spans.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use ureq::tls::TlsConfig;

use crate::tls::crypto::provider;

/// For one question and its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer, in bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// Gets a page. Blocks.
///
/// # Errors
/// Why it can't be had.
pub fn get(url: &str) -> Result<String, String> {
    let mut response = agent(TIMEOUT).get(url).call().map_err(|error| error.to_string())?;
    let body = response.body_mut().with_config().limit(ANSWER_MAX);
    body.read_to_string().map_err(|error| error.to_string())
}

/// Posts a JSON document. Blocks.
///
/// # Errors
/// Why it was not taken; a status other than 2xx is an error too.
pub fn post(url: &str, document: &str) -> Result<(), String> {
    let request = agent(TIMEOUT).post(url).header("content-type", "application/json");
    let response = request.send(document).map_err(|error| error.to_string())?;
    let status = response.status();
    status.is_success().then_some(()).ok_or_else(|| format!("it answers {status}"))
}

/// Sends a request by `agent`. Blocks. Whatever its status is, a response is no error.
///
/// # Errors
/// Why there is no response.
pub fn send(agent: &ureq::Agent, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
    let request = agent.configure_request(request.map(|body| body.to_vec()));
    let request = request.http_status_as_error(false).build();
    let mut response = agent.run(request).map_err(|error| error.to_string())?;
    let body = response.body_mut().with_config().limit(ANSWER_MAX);
    let body = body.read_to_vec().map_err(|error| error.to_string())?;
    Ok(response.map(|_| body.into()))
}

/// What asks, for at most `timeout` each time.
#[must_use]
pub fn agent(timeout: Duration) -> ureq::Agent {
    // Neither a redirect nor a proxy from the environment: what the config names is what is asked.
    let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider()).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(timeout))
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("cutover/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}
