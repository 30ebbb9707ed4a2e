//! Signals → messages, on a thread of their own so that a busy loop cannot keep them waiting.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::leave;

/// What a signal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The terminal has another size.
    Resized,
    /// The process was stopped and goes on.
    Continued,
    /// The program is asked to end; the signal's number.
    End(i32),
}

/// How long the loop may take to end after a signal asked for it.
const GRACE: Duration = Duration::from_secs(3);

/// Waits for signals until `stop`. A hang-up ends the process at once, and so does the second request to end it or one
/// that the loop did not follow in time.
pub(crate) fn listen(stop: CancellationToken, sink: impl Fn(Notice)) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut resized = signal(SignalKind::window_change())?;
        let mut continued = signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?;
        let mut ending = None;
        loop {
            let overdue = async {
                match ending {
                    Some((_, at)) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let number = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = hang_up.recv() => leave::now(SignalKind::hangup().as_raw_value(), true),
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                _ = quit.recv() => SignalKind::quit().as_raw_value(),
                () = overdue => leave::now(ending.map_or(0, |(number, _)| number), true),
                _ = resized.recv() => {
                    sink(Notice::Resized);
                    continue;
                }
                _ = continued.recv() => {
                    sink(Notice::Continued);
                    continue;
                }
            };
            if let Some((number, _)) = ending {
                leave::now(number, true);
            }
            ending = Some((number, tokio::time::Instant::now() + GRACE));
            sink(Notice::End(number));
        }
    })
}
