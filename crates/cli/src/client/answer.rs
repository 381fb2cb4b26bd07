//! Answers: the daemon's, those of something else, and none.

use lvp_api::ErrorBody;
use lvp_tls::Peer;
use reqwest::{RequestBuilder, Response, StatusCode, header};
use serde::de::DeserializeOwned;

use super::Client;
use crate::exit::{Exit, Failure};
use crate::output::clean;

impl Client {
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        call: RequestBuilder,
    ) -> Result<T, Failure> {
        let response = call
            .timeout(self.answer_timeout)
            .send()
            .await
            .map_err(|error| self.no_answer(&error))?;
        self.answer(response).await
    }

    pub(super) async fn answer<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<T, Failure> {
        let response = self.check(response).await?;
        self.parse(response).await
    }

    pub(super) async fn parse<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<T, Failure> {
        let body = response
            .bytes()
            .await
            .map_err(|error| self.no_answer(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.not_understood(&error.to_string()))
    }

    /// Turns an answer that is not a success into a failure with the daemon's own message.
    pub(super) async fn check(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        let body = response.bytes().await.unwrap_or_default();
        let message = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => format!("{} ({}: {})", body.message, status.as_u16(), body.error),
            // Not the daemon's body: the answer of a proxy or of another server.
            Err(_) => format!("{} answered {status}", self.endpoint),
        };
        let hint = match (status, retry_after) {
            (StatusCode::UNAUTHORIZED, _) => {
                "; give a token (--token-file or LVP_TOKEN) or a client certificate".to_owned()
            }
            (_, Some(seconds)) => format!("; try again in {seconds} s"),
            _ => String::new(),
        };
        let exit = Exit::from_http_status(status.as_u16());
        Err(Failure::new(exit, clean(&format!("{message}{hint}"))))
    }

    pub(super) fn no_answer(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() && !error.is_connect() {
            return self.no_answer_in_time();
        }
        let endpoint = &self.endpoint;
        let cause = root_cause(error);
        let peer = Peer {
            host: endpoint,
            is_tls: endpoint.starts_with("https:"),
            ca_setting: "--ca-cert",
            endpoint_setting: "--endpoint (LVP_ENDPOINT)",
        };
        let message = if let Some(reason) = lvp_tls::explain(error, &peer) {
            reason
        } else if error.is_connect() {
            format!(
                "Cannot reach {endpoint}: {cause}; check that the daemon is running there, or set \
                 another address with --endpoint or LVP_ENDPOINT"
            )
        } else {
            format!("The connection to {endpoint} was lost: {cause}")
        };
        Failure::new(Exit::Unavailable, message)
    }

    pub(super) fn no_answer_in_time(&self) -> Failure {
        Failure::new(
            Exit::Timeout,
            format!(
                "No answer from {} within {:?}; use --timeout to wait longer",
                self.endpoint, self.answer_timeout
            ),
        )
    }

    pub(super) fn not_understood(&self, why: &str) -> Failure {
        Failure::new(
            Exit::Failed,
            clean(&format!(
                "The answer of {} is not one that lvpctl {} understands: {why}; check that a \
                 libvirt-volume-provisioner of a similar version runs there",
                self.endpoint,
                env!("CARGO_PKG_VERSION"),
            )),
        )
    }
}

/// The innermost cause: the outer errors only say "error sending request".
fn root_cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
