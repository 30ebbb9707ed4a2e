//! Signals end work in order: it is cancelled, keeps what it has, and the exit code says which signal it was.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::Exit;

/// How long cancelled work may take to put its things away.
const GRACE: Duration = Duration::from_secs(10);

/// The signals that end a command.
pub(super) struct Signals(Vec<(Signal, u8)>);

impl Signals {
    /// Takes HUP, INT and TERM from now on, except those that the parent asked to ignore (`nohup`).
    pub(super) fn take() -> Self {
        let ignored = ignored();
        let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()];
        let kinds = kinds.into_iter().filter_map(|kind| Some((kind, u8::try_from(kind.as_raw_value()).ok()?)));
        let wanted = kinds.filter(|(_, number)| ignored & (1 << (number - 1)) == 0);
        Self(wanted.filter_map(|(kind, number)| Some((signal(kind).ok()?, number))).collect())
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        std::future::poll_fn(|context| {
            for (signal, number) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Runs `work` to its end. The first signal cancels it; a second one, or work that takes too long to stop, ends the
    /// program at once.
    pub(super) async fn guard<T>(
        &mut self,
        cancel: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> (T, Option<Exit>) {
        tokio::pin!(work);
        let number = tokio::select! {
            result = &mut work => return (result, None),
            number = self.next() => number,
        };
        cancel.cancel();
        tokio::select! {
            result = &mut work => (result, Some(Exit::Signal(number))),
            again = self.next() => std::process::exit(Exit::Signal(again).code().into()),
            () = tokio::time::sleep(GRACE) => std::process::exit(Exit::Signal(number).code().into()),
        }
    }
}

/// The signals that this process ignores since its start, as bits from signal 1.
fn ignored() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
