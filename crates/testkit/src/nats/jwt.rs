//! Users whom a broker knows by JWTs, as `nsc` makes them (ADR-14 of NATS's design): an operator signs an account, and the
//! account signs its users.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with one account.
#[derive(Debug)]
pub struct Operator {
    account: KeyPair,
    /// The lines for the broker's configuration.
    pub configuration: String,
}

impl Operator {
    /// A new one.
    pub fn new() -> io::Result<Self> {
        let operator = KeyPair::new_operator();
        let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
        let own = token(&operator, &operator.public_key(), "operator", &json!({}))?;
        let no_limit = json!({
            "subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1,
            "wildcards": true, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        });
        let of_account = |key: &KeyPair, limits: &Value| {
            let more = json!({ "limits": limits });
            token(&operator, &key.public_key(), "account", &more)
        };
        // The system's account has no streams.
        let mut system_limit = no_limit.clone();
        for name in ["mem_storage", "disk_storage"] {
            system_limit[name] = json!(0);
        }
        let configuration = format!(
            "operator: {own}\nsystem_account: {system_key}\nresolver: MEMORY\nresolver_preload: {{\n{system_key}: {}\n{}: {}\n}}",
            of_account(&system, &system_limit)?,
            account.public_key(),
            of_account(&account, &no_limit)?,
            system_key = system.public_key(),
        );
        Ok(Self {
            account,
            configuration,
        })
    }

    /// The text of a new user's creds file.
    pub fn creds(&self) -> io::Result<String> {
        let user = KeyPair::new_user();
        let more = json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
        let token = token(&self.account, &user.public_key(), "user", &more)?;
        let seed = user.seed().map_err(io::Error::other)?;
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ))
    }
}

fn token(issuer: &KeyPair, subject: &str, kind: &str, more: &Value) -> io::Result<String> {
    let mut claims = more.clone();
    claims["type"] = json!(kind);
    claims["version"] = json!(2);
    let claims = json!({
        "jti": subject, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": kind, "sub": subject, "nats": claims,
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = [header, claims].map(|part| encode(part.to_string().as_bytes()));
    let signed = signed.join(".");
    let signature = issuer.sign(signed.as_bytes()).map_err(io::Error::other)?;
    Ok(format!("{signed}.{}", encode(&signature)))
}
