//! Signals end work in order: it is cancelled, keeps what it has, and the exit code says which signal it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::exit::Exit;
use crate::machine;

/// How long cancelled work that writes may take to put its things away.
const PUT_AWAY: Duration = Duration::from_secs(10);
/// The same for work that only looks: it has nothing to put away, and a disk that does not answer must not keep it.
const LOOKED: Duration = Duration::from_millis(700);

/// The signals that end a command.
#[derive(Debug)]
pub(super) struct Signals {
    /// The first one that came.
    came: watch::Receiver<Option<u8>>,
    /// Whether work is going on that has things to put away.
    writes: Arc<AtomicBool>,
}

impl Signals {
    /// Takes HUP, INT and TERM from now on, except those that the parent asked to ignore (`nohup`). The first one cancels
    /// `cancel`; a second one, or work that takes too long to stop, ends the program at once, whatever its threads wait for.
    pub(super) fn take(cancel: CancellationToken) -> Self {
        let ignored = machine::ignored_signals();
        let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()];
        let kinds = kinds.into_iter().filter_map(|kind| Some((kind, u8::try_from(kind.as_raw_value()).ok()?)));
        let wanted = kinds.filter(|(_, number)| ignored & (1 << (number - 1)) == 0);
        let mut signals = wanted.filter_map(|(kind, number)| Some((signal(kind).ok()?, number))).collect::<Vec<_>>();
        let (sender, came) = watch::channel(None);
        let writes = Arc::new(AtomicBool::new(false));
        let something_to_put_away = Arc::clone(&writes);
        // A task of its own: the thread of the command may be the one that waits for a disk.
        tokio::spawn(async move {
            let number = next(&mut signals).await;
            let grace = if something_to_put_away.load(Ordering::Relaxed) { PUT_AWAY } else { LOOKED };
            sender.send_replace(Some(number));
            cancel.cancel();
            let last = tokio::select! {
                again = next(&mut signals) => again,
                () = tokio::time::sleep(grace) => number,
            };
            std::process::exit(Exit::Signal(last).code().into());
        });
        Self { came, writes }
    }

    /// Runs `work` to its end, with the signal that cancelled it, if one did. Work that `writes` gets time to put its things
    /// away.
    pub(super) async fn guard<T>(&mut self, writes: bool, work: impl Future<Output = T>) -> (T, Option<Exit>) {
        self.writes.store(writes, Ordering::Relaxed);
        tokio::pin!(work);
        let ended = tokio::select! {
            result = &mut work => Ok(result),
            number = came(&mut self.came) => Err(number),
        };
        let ended = match ended {
            // The same signal cancels the work, which may be seen to end first.
            Ok(result) => (result, (*self.came.borrow()).map(Exit::Signal)),
            Err(number) => (work.await, Some(Exit::Signal(number))),
        };
        self.writes.store(false, Ordering::Relaxed);
        ended
    }
}

/// The number of the first signal.
async fn came(receiver: &mut watch::Receiver<Option<u8>>) -> u8 {
    loop {
        if let Some(number) = *receiver.borrow_and_update() {
            return number;
        }
        if receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The number of the next one.
async fn next(signals: &mut [(Signal, u8)]) -> u8 {
    std::future::poll_fn(|context| {
        for (signal, number) in signals.iter_mut() {
            if signal.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(*number);
            }
        }
        std::task::Poll::Pending
    })
    .await
}
