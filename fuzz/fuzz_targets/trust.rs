//! Whatever a server sends as a signature, a signed text or a key is an answer or a refusal; and what a stream comes
//! to, the whole comes to as well.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lvp_trust::{Keys, Now, begin, verify, verify_cleartext};

const NOW: Now = Now(1_800_000_000);
const DATA: &[u8] = b"e3b0c442  disk.qcow2\n";

/// Those of the seeds' signatures.
static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let mut keys = Keys::default();
    for file in [
        &include_bytes!("../corpus/trust/openpgp-key")[..],
        include_bytes!("../corpus/trust/minisign-key"),
    ] {
        keys.add(file).expect("it is a key");
    }
    keys
});

fuzz_target!(|data: &[u8]| {
    let whole = verify(data, DATA, &KEYS, NOW);
    if let Ok(mut pending) = begin(data, &KEYS, NOW) {
        pending.update(&DATA[..5]);
        pending.update(&DATA[5..]);
        assert_eq!(pending.finish().is_ok(), whole.is_ok());
    }
    if let Ok((text, _)) = verify_cleartext(data, &KEYS, NOW) {
        assert!(text.len() <= 2 * data.len());
    }
    let mut keys = Keys::default();
    if keys.add(data).is_ok() {
        keys.signers(NOW);
        verify(
            include_bytes!("../corpus/trust/openpgp-detached"),
            DATA,
            &keys,
            NOW,
        )
        .ok();
        verify(
            include_bytes!("../corpus/trust/minisign-detached"),
            DATA,
            &keys,
            NOW,
        )
        .ok();
    }
});
