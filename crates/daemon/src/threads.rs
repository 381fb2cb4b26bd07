//! Work that blocks, on threads where it may block.

use tokio::task::JoinError;

/// The work panicked. The panic itself is in the log.
#[derive(Debug, thiserror::Error)]
#[error("A thread crashed; see the log")]
pub struct Crashed(#[from] JoinError);

/// Runs work that blocks (disk, system calls) on a thread of the runtime's pool for it. The work runs to its
/// end even if nobody waits for it any more.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Crashed> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_work_and_not_of_who_waits() {
        assert_eq!(blocking(|| 7).await.expect("it ends"), 7);
        let crashed = blocking(|| panic!("as the test wants it")).await;
        let crashed: Crashed = crashed.expect_err("it crashed");
        assert!(crashed.to_string().contains("crashed"), "{crashed}");
    }
}
