//! `download`: a queue of one, watched until it ends.

use super::arguments::Download;
use super::exit::{Exit, Outcome, Stop};
use super::follow;
use super::output::Output;
use super::output::progress::Bar;
use super::session::Session;
use crate::jobs::{JobEvent, JobEventKind, JobOutcome, JobSpec, JobState, Jobs, LocalJobs, LocalJobsOptions};
use crate::model::{Bytes, text};
use crate::provisioner::DownloadRequest;
use crate::transfer;

pub(super) async fn run(session: &mut Session, arguments: Download) -> Outcome {
    let Download { reference, file, to, force, limit, json } = arguments;
    let to = to.unwrap_or(session.settings.destination);
    let options = LocalJobsOptions {
        downloads: 1,
        limit: limit.map(|rate| rate.0).or(session.settings.limit),
        queue_file: None,
        deletion_log: None,
        transfer: transfer::Options::default(),
    };
    let jobs = LocalJobs::start(session.provisioner.clone(), session.inventory.clone(), options);
    let mut updates = jobs.subscribe();
    let request = DownloadRequest { reference, files: file, to, force };
    let job = jobs.submit(JobSpec::Download(request))?;
    let mut watch = Watch { bar: Bar::new(session.output.bars && !json), json, output: session.output.clone() };
    let cancel = session.cancel.clone();
    let work = async {
        let status = follow::to_end(&jobs, &mut updates, job, &cancel, &mut |event| watch.take(event)).await;
        jobs.shut_down().await;
        status
    };
    let (status, signal) = session.guard(work).await;
    watch.bar.end();
    let Some(status) = status? else { return Ok(signal.unwrap_or(Exit::Failed)) };
    match status.state {
        JobState::Finished => {
            let path = status.path.as_deref().map(text::printable_path).unwrap_or_default();
            let fetched = match status.outcome.as_deref() {
                Some(JobOutcome::Fetched(bytes)) => *bytes,
                _ => 0,
            };
            if !json {
                let done = if fetched == 0 {
                    "it was there already".to_owned()
                } else {
                    format!("{} fetched", Bytes(fetched))
                };
                session.output.say(&done);
                session.output.print(&format!("{path}\n"))?;
            }
            Ok(Exit::Done)
        }
        JobState::Cancelled => {
            session.output.say(&match status.bytes {
                0 => "cancelled before the first byte".to_owned(),
                bytes => format!("cancelled; {} are kept, and the same command goes on from there", Bytes(bytes)),
            });
            Ok(signal.unwrap_or(Exit::Failed))
        }
        _ => {
            let why = status.why.clone().unwrap_or_else(|| "the download did not end".to_owned());
            Err(Stop::Error(anyhow::anyhow!(why)))
        }
    }
}

/// What is shown of the job while it runs.
struct Watch {
    bar: Bar,
    /// Lines of JSON are wanted, and somebody still reads them.
    json: bool,
    output: Output,
}

impl Watch {
    fn take(&mut self, event: &JobEvent) -> Result<(), Stop> {
        if self.json {
            match self.output.json(event) {
                // The download goes on: it was asked for, and a closed pipe is no error.
                Err(Stop::Closed) => self.json = false,
                result => return result,
            }
        } else {
            self.show(&event.kind);
        }
        Ok(())
    }

    fn show(&self, event: &JobEventKind) {
        match event {
            JobEventKind::Progress { file: None, bytes, total, rate, .. } => {
                self.bar.show_rate(*bytes, *total, *rate);
            }
            JobEventKind::Started { file: Some(file), .. } => self.bar.label(&text::printable(file)),
            JobEventKind::Verifying { file: Some(file) } => {
                self.bar.label(&format!("checking {}", text::printable(file)));
            }
            JobEventKind::Waiting { error, .. } => self.note(&format!("waiting: {error}")),
            JobEventKind::Retrying { error, after_s, .. } => {
                self.note(&format!("{error}; trying again in {after_s} s"));
            }
            _ => {}
        }
    }

    fn note(&self, line: &str) {
        self.bar.aside(|| self.output.say(line));
    }
}
