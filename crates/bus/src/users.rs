//! Users of the broker: a host may write its own keys and read its orders, an issuer may order.

use lvp_fleet::HostName;
use lvp_fleet::names::{HOSTS_BUCKET, ORDERS_STREAM, REPORTS_BUCKET, WAVES_BUCKET};

use crate::key_subject;

/// The key of a user of the broker.
#[derive(Debug)]
pub struct UserKey {
    /// The secret, as `fleet.nkey_file` and `LVP_NATS_NKEY` take it.
    pub seed: String,
    /// What the broker's configuration has of it.
    pub public: String,
}

impl UserKey {
    /// A new one.
    pub fn new() -> Result<Self, String> {
        let pair = nkeys::KeyPair::new_user();
        Ok(Self {
            seed: pair.seed().map_err(|error| error.to_string())?,
            public: pair.public_key(),
        })
    }

    /// The line among the users of `deploy/nats/accounts.conf`, of this host or of an issuer.
    pub fn line(&self, host: Option<&HostName>) -> String {
        let key = &self.public;
        let Some(part) = host.map(HostName::part) else {
            return format!("{{ nkey: {key}, permissions: $ISSUER }}");
        };
        let (orders, waves) = (ORDERS_STREAM, format!("KV_{WAVES_BUCKET}"));
        let subjects = [
            key_subject(HOSTS_BUCKET, &part),
            key_subject(REPORTS_BUCKET, &format!("*.{part}")),
            key_subject(WAVES_BUCKET, &format!("*.{part}")),
            format!("$JS.API.CONSUMER.CREATE.{orders}.{part}"),
            format!("$JS.API.CONSUMER.CREATE.{orders}.{part}.>"),
            format!("$JS.API.CONSUMER.INFO.{orders}.{part}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{orders}.{part}"),
            format!("$JS.API.CONSUMER.DELETE.{orders}.{part}"),
            format!("$JS.ACK.{orders}.{part}.>"),
            format!("$JS.ACK.*.*.{orders}.{part}.>"),
            format!("$JS.API.CONSUMER.CREATE.{waves}.{part}.>"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{waves}.{part}"),
            format!("$JS.API.CONSUMER.DELETE.{waves}.{part}"),
        ];
        let subjects = subjects.map(|subject| format!("\"{subject}\"")).join(", ");
        format!(
            "{{ nkey: {key}, permissions: {{ publish: {{ allow: [{subjects}] }}, \
             subscribe: {{ allow: [\"_INBOX_lvp.{part}.>\"] }} }} }}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is tested with real servers is that file.
    #[test]
    fn the_lines_are_those_of_the_configuration_that_is_shipped() {
        let accounts = include_str!("../../../deploy/nats/accounts.conf");
        let host = "kvm1.example.com".parse().expect("a name");
        for host in [None, Some(&host)] {
            let found = accounts.lines().filter_map(|line| {
                let key = line.split("nkey: ").nth(1)?.split(',').next()?;
                let user = UserKey {
                    seed: String::new(),
                    public: key.to_owned(),
                };
                (line.trim() == format!("{} # example", user.line(host))).then_some(())
            });
            assert_eq!(found.count(), 1, "{host:?}");
        }
    }

    #[test]
    fn a_new_key_is_one_of_a_user_and_another_each_time() {
        let (one, two) = (
            UserKey::new().expect("a key"),
            UserKey::new().expect("a key"),
        );
        assert!(one.seed.starts_with("SU") && one.public.starts_with('U'));
        assert_ne!(one.public, two.public);
    }
}
