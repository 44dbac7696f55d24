//! Work that keeps a thread busy for long: done beside the threads on which everything else of the daemon runs.

use tokio_util::sync::CancellationToken;

use crate::core::failure::Failure;

/// Does work that only looks. It is left alone when the step is cancelled, and is told so by the function that it is given:
/// what asks it ends soon.
///
/// # Errors
/// `stopped`, where the step was cancelled before the work was done.
pub async fn blocking<T: Send + 'static>(
    cancel: &CancellationToken,
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
) -> Result<T, Failure> {
    let cancelled = cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Failure::retryable("stopped", "the run was stopped")),
        done = to_its_end(move || work(&|| cancelled.is_cancelled())) => Ok(done),
    }
}

/// Does work that changes something: it is waited for, whatever else happens.
pub async fn to_its_end<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only where the program ends before the work began: nobody waits here any more.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// On a runtime of one thread: work on it would leave nobody to let it go.
    #[tokio::test]
    async fn others_go_on_meanwhile() {
        let (go, gone) = mpsc::channel();
        let never = CancellationToken::new();
        let work = blocking(&never, move |_| gone.recv_timeout(Duration::from_secs(60)).is_ok());
        let other = async { go.send(()).expect("it waits") };
        let (done, ()) = tokio::join!(work, other);
        assert_eq!(done, Ok(true));
    }

    #[tokio::test]
    async fn a_cancelled_step_does_not_wait_and_the_work_is_told() {
        let (tell, told) = mpsc::channel();
        let cancel = CancellationToken::new();
        let work = blocking(&cancel, move |cancelled| {
            let begin = std::time::Instant::now();
            while !cancelled() && begin.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(5));
            }
            tell.send(cancelled()).expect("the test waits");
        });
        let (done, ()) = tokio::join!(work, async { cancel.cancel() });
        assert_eq!(done.expect_err("it was stopped").code, "stopped");
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
}
