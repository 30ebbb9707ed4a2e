//! Blocking requests of one kind: one at a time, the newest next, what came between never starts.

use std::time::{Duration, Instant};

/// A request that has run this long hangs on its disk; the next one gets a thread of its own.
const PATIENCE: Duration = Duration::from_secs(2);
/// Threads that may hang at the same time.
const MAX_HUNG: usize = 8;

type Work = Box<dyn FnOnce() + Send>;

/// One kind of request.
pub(super) struct Lane {
    patience: Duration,
    running: Option<(u64, Instant)>,
    next: Option<Work>,
    started: u64,
    hung: usize,
}

impl Default for Lane {
    fn default() -> Self {
        Self { patience: PATIENCE, running: None, next: None, started: 0, hung: 0 }
    }
}

impl Lane {
    /// Runs `work` on a thread when the one before is done; `done` is told the number of the request at its end and has to
    /// lead to [`Self::ended`].
    pub(super) fn submit(&mut self, work: Work, done: impl Fn(u64) + Send + 'static) {
        match self.running {
            Some((_, since)) if since.elapsed() < self.patience || self.hung >= MAX_HUNG => {
                self.next = Some(work);
            }
            running => {
                self.hung += usize::from(running.is_some());
                self.start(work, done);
            }
        }
    }

    fn start(&mut self, work: Work, done: impl Fn(u64) + Send + 'static) {
        self.started += 1;
        let number = self.started;
        self.running = Some((number, Instant::now()));
        let run = move || {
            work();
            done(number);
        };
        if std::thread::Builder::new().name("disk".to_owned()).spawn(run).is_err() {
            self.running = None;
        }
    }

    /// Request `number` is over: starts the newest that waits.
    pub(super) fn ended(&mut self, number: u64, done: impl Fn(u64) + Send + 'static) {
        match self.running {
            Some((running, _)) if running == number => self.running = None,
            _ => {
                self.hung = self.hung.saturating_sub(1);
                return;
            }
        }
        if let Some(work) = self.next.take() {
            self.start(work, done);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_the_newest_of_those_that_wait_runs() {
        let mut lane = Lane { patience: Duration::MAX, ..Lane::default() };
        let (done, ended) = mpsc::channel();
        let (ran, order) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let tell = || {
            let done = done.clone();
            move |number| done.send(number).unwrap()
        };
        let work = |name: u32| -> Work {
            let ran = ran.clone();
            Box::new(move || ran.send(name).unwrap())
        };
        let first = ran.clone();
        lane.submit(
            Box::new(move || {
                gate.recv().unwrap();
                first.send(1).unwrap();
            }),
            tell(),
        );
        lane.submit(work(2), tell());
        lane.submit(work(3), tell());
        release.send(()).unwrap();
        lane.ended(ended.recv().unwrap(), tell());
        lane.ended(ended.recv().unwrap(), tell());
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [1, 3]);
    }
}
