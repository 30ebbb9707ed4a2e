//! The threads that listen: to the terminal, to its end, to signals.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::tui::input::{self, Input};
use crate::tui::leave;
use crate::tui::signals::{self, Notice};

/// Ends the threads when it is dropped.
pub(super) struct Threads {
    _stop: [std::io::PipeWriter; 2],
    signals: CancellationToken,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.signals.cancel();
    }
}

pub(super) type Channels = (mpsc::Receiver<(Duration, Input)>, mpsc::Receiver<Notice>, Threads);

/// Starts the threads that listen: to the terminal, to its end, to signals.
pub(super) fn threads(start: Instant) -> std::io::Result<Channels> {
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(body).map(|_| ())
    };
    // Keys that nobody takes for so long that these fill up are dropped: they were typed blindly.
    let (keys, inputs) = mpsc::channel(1024);
    let (signal, notices) = mpsc::channel(64);
    let (reader_stop, stop_reader) = std::io::pipe()?;
    let (watch_stop, stop_watch) = std::io::pipe()?;
    let signals = CancellationToken::new();
    let stop = signals.clone();
    spawn("watch", Box::new(move || leave::watch(&watch_stop)))?;
    spawn(
        "signals",
        Box::new(move || {
            let sink = |notice| {
                let _ = signal.try_send(notice);
            };
            if let Err(error) = signals::listen(stop, sink) {
                tracing::error!("signals are not handled: {error}");
            }
        }),
    )?;
    spawn(
        "input",
        Box::new(move || {
            input::read(start, &reader_stop, |at, input| {
                let _ = keys.try_send((at, input));
            });
        }),
    )?;
    Ok((inputs, notices, Threads { _stop: [stop_reader, stop_watch], signals }))
}
