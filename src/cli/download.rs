//! `download` and `convert`: a queue of one, watched until it ends.

use super::arguments::{Convert, Courtesy, Download};
use super::exit::{Exit, Outcome, Stop};
use super::follow;
use super::output::Output;
use super::output::progress::Bar;
use super::session::{Found, Session, transfer_options};
use crate::config::Environment;
use crate::jobs::{JobEvent, JobEventKind, JobOutcome, JobSpec, JobState, Jobs, LocalJobs, LocalJobsOptions};
use crate::model::{Bytes, Rate, text};
use crate::provisioner::{ConvertRequest, DownloadRequest};

pub(super) async fn run(session: &mut Session, arguments: Download) -> Outcome {
    let Download { reference, file, to, mmproj, force, limit, connections, courtesy, json } = arguments;
    let to = to.unwrap_or(session.settings.destination);
    let settings = &mut session.settings;
    settings.connections = connections.unwrap_or(settings.connections);
    settings.courtesy = match courtesy {
        None => settings.courtesy,
        Some(Courtesy::Auto) => Environment::of_process().text("SSH_CONNECTION").is_some(),
        Some(chosen) => chosen == Courtesy::Always,
    };
    let request = DownloadRequest { reference, files: file, to, force, mmproj };
    work(session, JobSpec::Download(request), limit, json).await
}

/// `convert`: a conversion of a model that is here, watched in the same way.
pub(super) async fn convert(session: &mut Session, arguments: Convert) -> Outcome {
    let Convert { reference, output_type, force, json } = arguments;
    // What is not here is said like everywhere else, before a job is made of it.
    if let Found::Signal(exit) = session.find_to_read(vec![reference.clone()]).await? {
        return Ok(exit);
    }
    let request = ConvertRequest { reference, output_type, force };
    work(session, JobSpec::Convert(request), None, json).await
}

async fn work(session: &mut Session, spec: JobSpec, limit: Option<Bytes>, json: bool) -> Outcome {
    let options = LocalJobsOptions {
        downloads: 1,
        limit: limit.map(|rate| rate.0).or(session.settings.limit),
        queue_file: None,
        deletion_log: None,
        transfer: transfer_options(&session.settings),
    };
    let jobs = LocalJobs::start(session.provisioner.clone(), session.inventory.clone(), options);
    let mut updates = jobs.subscribe();
    let job = jobs.submit(spec)?;
    let mut watch =
        Watch { bar: Bar::new(session.output.bars && !json), json, output: session.output.clone(), held: false };
    let cancel = session.cancel.clone();
    let running = async {
        let status = follow::to_end(&jobs, &mut updates, job, &cancel, &mut |event| watch.take(event)).await;
        jobs.shut_down().await;
        status
    };
    let (status, signal) = session.guard(running).await;
    watch.bar.end();
    let Some(status) = status? else { return Ok(signal.unwrap_or(Exit::Failed)) };
    match status.state {
        JobState::Finished => {
            let path = status.path.as_deref().map(text::printable_path).unwrap_or_default();
            if !json {
                let done = match status.outcome.as_deref() {
                    Some(JobOutcome::Fetched(bytes @ 1..)) => format!("{} fetched", Bytes(*bytes)),
                    Some(JobOutcome::Converted(bytes @ 1..)) => format!("converted: {}", Bytes(*bytes)),
                    _ => "it was there already".to_owned(),
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
            let why = status.why.clone().unwrap_or_else(|| "the work did not end".to_owned());
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
    /// That courtesy holds it back was said.
    held: bool,
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

    fn show(&mut self, event: &JobEventKind) {
        match event {
            JobEventKind::Progress { file: None, bytes, total, rate, .. } => {
                self.bar.show_rate(*bytes, *total, *rate);
                if let Some(held) = event.held().filter(|_| !self.held) {
                    self.held = true;
                    self.note(&format!(
                        "the link fills up: courtesy holds the download to {} for now; --courtesy never turns that off",
                        Rate(held)
                    ));
                }
            }
            JobEventKind::Started { file: Some(file), .. } => self.bar.label(&text::printable(file)),
            JobEventKind::Verifying { file: Some(file) } => {
                self.bar.label(&format!("checking {}", text::printable(file)));
            }
            JobEventKind::Output { line } => self.note(line),
            JobEventKind::Waiting { error, .. } => self.note(&format!("waiting: {error}")),
            JobEventKind::Retrying { error, after_s, attempt, .. } => {
                let attempt = attempt.map_or_else(String::new, |attempt| format!(" (retry {attempt})"));
                self.note(&format!("{error}; trying again in {after_s} s{attempt}"));
            }
            _ => {}
        }
    }

    fn note(&self, line: &str) {
        self.bar.aside(|| self.output.say(line));
    }
}
