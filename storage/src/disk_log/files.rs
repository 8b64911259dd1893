//! The thread that makes segments ahead of time and removes those that are not needed any more, so that the writer
//! waits for neither. Also drops what takes long to drop.
//!
//! Must never touch a segment that the writer has.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::delivery::Delivery;
use super::disk::Disk;
use super::segment::{self, Segment};

/// Jobs that may wait. There is one segment to make, and one removal for each purge.
const JOBS_MAX: usize = 64;

enum Job {
    Make { number: u64, sectors: u64, made: SyncSender<io::Result<Segment>> },
    Remove(u64),
    Forget(#[expect(dead_code, reason = "dropping it is the job")] Box<dyn Any + Send>),
}

pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    jobs: Option<SyncSender<Job>>,
    spare: Option<Receiver<io::Result<Segment>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Files {
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(disk: Arc<dyn Disk>, delivery: Arc<Delivery>) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(JOBS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_disk, thread_stop) = (disk.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("log-files".into())
            .spawn(move || run(&*thread_disk, &waiting, &thread_stop, &delivery))?;
        Ok(Self { disk, jobs: Some(jobs), spare: None, stop, thread: Some(thread) })
    }

    /// Has the next segment made, unless it already is.
    pub(crate) fn prepare(&mut self, number: u64, sectors: u64) {
        if self.spare.is_none() {
            let (made, spare) = sync_channel(1);
            self.send(Job::Make { number, sectors, made });
            self.spare = Some(spare);
        }
    }

    /// The next segment, which is made now if none was made before.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn take(&mut self, number: u64, sectors: u64) -> io::Result<Segment> {
        if let Some(spare) = self.spare.take() {
            match spare.recv() {
                Ok(Ok(segment)) => return Ok(segment),
                // There may be room by now, and nothing is left of the file.
                Ok(Err(error)) if error.kind() == io::ErrorKind::StorageFull => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::Error::other("the thread that makes segments has ended")),
            }
        }
        segment::make(&*self.disk, number, sectors, &self.stop)
    }

    pub(crate) fn remove(&self, number: u64) {
        self.send(Job::Remove(number));
    }

    pub(crate) fn forget(&self, what: Box<dyn Any + Send>) {
        self.send(Job::Forget(what));
    }

    fn send(&self, job: Job) {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            log::error!("the thread that makes segments of the log has ended");
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A segment that is half made is left; one that is to be removed is removed first.
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that makes segments of the log panicked");
        }
    }
}

fn run(disk: &dyn Disk, jobs: &Receiver<Job>, stop: &AtomicBool, delivery: &Delivery) {
    for job in jobs {
        match job {
            Job::Make { number, sectors, made } => {
                let result = segment::make(disk, number, sectors, stop);
                match &result {
                    Ok(_) => {}
                    Err(error) if stop.load(Ordering::Relaxed) => log::debug!("segment {number}: {error}"),
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                        log::warn!("no room for the next segment of the Raft log: {error}");
                    }
                    Err(error) => drop(delivery.fail(&format!("segment {number} cannot be made: {error}"))),
                }
                // The log may have been closed meanwhile.
                drop(made.send(result));
            }
            Job::Remove(number) => {
                // Synced one by one: were a later name gone and an earlier not, one would be missing between.
                let removed = disk.remove(&segment::name(number)).and_then(|()| disk.sync());
                if let Err(error) = removed {
                    delivery.fail(&format!("segment {number} cannot be removed: {error}"));
                    return;
                }
            }
            Job::Forget(_) => {}
        }
    }
}
