//! Downloads several models at once into a folder, with progress and a clean stop on Ctrl-C.
//!
//! ```text
//! cargo run --example download -- /data/models tinyllama Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M
//! ```
//!
//! What the events of one file are and in which order they come is written at [`TransferEvent`]; those of several files
//! and of several downloads lie between each other.

use std::path::PathBuf;
use std::sync::Arc;

use rbee_hive::provisioner::{DownloadRequest, ModelProvisioner};
use rbee_hive::transfer::{Connections, Options, Throttle, TransferEvent};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(folder) = arguments.next() else { anyhow::bail!("usage: download FOLDER REFERENCE…") };
    let requests: Vec<DownloadRequest> =
        arguments.map(|reference| DownloadRequest::new(reference.to_string_lossy())).collect();

    // Endpoint, token and proxies as the environment says; `ModelProvisioner::builder` reads nothing.
    let provisioner = ModelProvisioner::new(PathBuf::from(folder));

    // What holds a clone of these shares them: at most eight connections and 50 MB/s over all downloads together.
    let throttle = Throttle::new(Some(50_000_000));
    let options = Options {
        connections: Connections::new(8),
        throttle: throttle.clone(),
        ..provisioner.transfer_options().clone()
    };

    // Called from the transfers' own tasks: it must return at once.
    let names: Vec<String> = requests.iter().map(|request| request.reference.clone()).collect();
    let events = Arc::new(move |index: usize, event: TransferEvent| {
        let name = &names[index];
        match event {
            TransferEvent::Started { files, total } => println!("{name}: {} files, {total} bytes", files.len()),
            TransferEvent::FileStarted { file, bytes, total } => println!("{name}: {file} from {bytes} of {total}"),
            TransferEvent::FileProgress { file, bytes, total, connections } => {
                println!("{name}: {file} {bytes} of {total} over {connections} connections");
            }
            TransferEvent::Retrying { file, attempt, after, error } => {
                println!("{name}: {file}: {error}; retry {attempt} in {:.1} s", after.as_secs_f64());
            }
            TransferEvent::Waiting { file, why } => println!("{name}: {file} waits: {why}"),
            TransferEvent::Verifying { file } => println!("{name}: {file} is compared with its checksum"),
            TransferEvent::FileFinished { path, .. } => println!("{name}: {}", path.display()),
            // More kinds may come.
            _ => {}
        }
    });

    // The limit can change while they run, and cancelling keeps what is there for the next time.
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });

    let mut failed = false;
    let results = provisioner.download_many(&requests, 2, &options, events, &cancel).await;
    for (request, result) in requests.iter().zip(results) {
        match result {
            Ok(done) => println!("{} is at {}, {} bytes fetched", request.reference, done.path.display(), done.fetched),
            Err(error) if error.is_cancelled() => println!("{}: cancelled, what is there is kept", request.reference),
            Err(error) => {
                failed = true;
                eprintln!("{}: {error}", request.reference);
            }
        }
    }
    anyhow::ensure!(!failed, "not every model is here");
    Ok(())
}
