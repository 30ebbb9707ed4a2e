//! Clients: whom they trust, what they go through, and what is wrong with a certificate.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, redirect};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::error::Result;

pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// The client for everything else, with the reason why it trusts nobody if no certificates were found.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) client: Client,
    pub(super) untrusting: Option<String>,
}

type Trust = Result<rustls::ClientConfig, rustls::Error>;

/// A client for servers of this host: no proxy, no trust in anybody, redirects are not followed.
pub(crate) fn loopback_client() -> Result<Client, String> {
    build(false, trusting_nobody())
}

pub(super) fn build_remote(proxies: bool) -> Result<Remote, String> {
    let (trust, untrusting) = match trusting_the_system() {
        Ok(config) => (Ok(config), None),
        Err(error) => {
            tracing::warn!("no certificates: {error}");
            let reason = "this host has no certificates of authorities; install ca-certificates or set SSL_CERT_FILE";
            (trusting_nobody(), Some(reason.to_owned()))
        }
    };
    Ok(Remote { client: build(proxies, trust)?, untrusting })
}

pub(super) fn build(proxies: bool, trust: Trust) -> Result<Client, String> {
    let mut trust = trust.map_err(|error| error.to_string())?;
    trust.alpn_protocols = vec![b"http/1.1".to_vec()];
    let builder = Client::builder()
        .user_agent(concat!("llorch-models/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .http1_only()
        .connect_timeout(CONNECT)
        .tcp_keepalive(Duration::from_secs(30))
        .tls_backend_preconfigured(trust);
    let builder = if proxies { builder } else { builder.no_proxy() };
    builder.build().map_err(|error| innermost(&error))
}

fn tls() -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

pub(super) fn trusting_nobody() -> Trust {
    Ok(tls()?.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

fn trusting_the_system() -> Trust {
    Ok(tls()?.with_platform_verifier()?.with_no_client_auth())
}

/// The last cause of the chain, without Rust's "(os error N)".
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(reason, _)| reason.to_lowercase())
}

/// What is wrong with the server's certificate, if that is the cause.
pub(super) fn certificate_problem(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error @ rustls::Error::InvalidCertificate(_)) = error.downcast_ref::<rustls::Error>() {
        return Some(error.to_string());
    }
    // An I/O error gives the error that it wraps by `get_ref`; its `source` is already that one's cause.
    if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return certificate_problem(inner);
    }
    certificate_problem(error.source()?)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_bad_certificate_is_found_however_deep_it_is_wrapped() {
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, bad));
        assert!(certificate_problem(&wrapped).unwrap().contains("UnknownIssuer"));
        assert_eq!(certificate_problem(&io::Error::other("reset")), None);
        assert_eq!(certificate_problem(&rustls::Error::DecryptError), None);
    }
}
