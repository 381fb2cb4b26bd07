//! moto's server: AWS as its Python mock has it, which checks signatures, and session tokens too.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{Credentials, ServerProcess};
use crate::require::command;

/// Everything is allowed.
const POLICY: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;

/// A running moto, with a user and a role.
#[derive(Debug)]
pub(super) struct Moto {
    _process: ServerProcess,
    endpoint: String,
    user: Credentials,
    role: Credentials,
}

impl Moto {
    /// Starts it, makes the user and the role, and has it check signatures from then on.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let mut command = command("moto_server");
        command
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1");
        let (process, endpoint) = ServerProcess::announced(&mut command, announced_endpoint)?;
        let api = Api {
            endpoint: &endpoint,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(60))
                .build()?,
        };
        let user = ("UserName", "u");
        let policy = [("PolicyName", "p"), ("PolicyDocument", POLICY)];
        api.call("iam", "CreateUser", &[user]).await?;
        api.call("iam", "PutUserPolicy", &[user, policy[0], policy[1]])
            .await?;
        let created = api.call("iam", "CreateAccessKey", &[user]).await?;
        let trusting = ("AssumeRolePolicyDocument", POLICY);
        let role = ("RoleName", "r");
        let made = api.call("iam", "CreateRole", &[role, trusting]).await?;
        api.call("iam", "PutRolePolicy", &[role, policy[0], policy[1]])
            .await?;
        let arn = element(&made, "Arn")?;
        let assumed = [("RoleArn", arn.as_str()), ("RoleSessionName", "s")];
        let lent = api.call("sts", "AssumeRole", &assumed).await?;
        let moto = Self {
            user: credentials(&created, None)?,
            role: credentials(&lent, Some(element(&lent, "SessionToken")?))?,
            _process: process,
            endpoint: endpoint.clone(),
        };
        let reset = api.http.post(format!("{endpoint}/moto-api/reset-auth"));
        reset.body("0").send().await?.error_for_status()?;
        Ok(moto)
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn user(&self) -> &Credentials {
        &self.user
    }

    pub(super) fn role(&self) -> &Credentials {
        &self.role
    }
}

/// AWS's older form of requests.
struct Api<'a> {
    endpoint: &'a str,
    http: reqwest::Client,
}

impl Api<'_> {
    async fn call(
        &self,
        service: &str,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> anyhow::Result<String> {
        let mut url = reqwest::Url::parse(self.endpoint)?;
        url.query_pairs_mut()
            .append_pair("Action", action)
            .extend_pairs(parameters);
        let form = url.query().unwrap_or_default().to_owned();
        // By the scope it tells which service is meant.
        let scope = format!("Credential=k/20260101/us-east-1/{service}/aws4_request");
        let answer = self
            .http
            .post(self.endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"),
            )
            .body(form)
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{action}: {status}: {text}");
        Ok(text)
    }
}

fn credentials(answer: &str, session_token: Option<String>) -> anyhow::Result<Credentials> {
    Ok(Credentials {
        access_key: element(answer, "AccessKeyId")?,
        secret_key: element(answer, "SecretAccessKey")?,
        session_token,
    })
}

fn element(answer: &str, name: &str) -> anyhow::Result<String> {
    let found = answer
        .split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once("</"));
    let (text, _) = found.with_context(|| format!("no {name} in {answer}"))?;
    Ok(text.trim().to_owned())
}

fn announced_endpoint(line: &str) -> Option<String> {
    let (_, address) = line.split_once("Running on ")?;
    Some(address.trim().to_owned())
}
