// SPDX-License-Identifier: GPL-2.0
//! What happened when: the driver's modes and states from debugfs and QEMU's events, printed as they come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::qmp::Event;
use crate::status::Status;

/// One end of the migration.
pub struct End {
    pub name: &'static str,
    pub vf: String,
    pub events: Arc<Mutex<Vec<Event>>>,
}

pub struct Timeline {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Timeline {
    /// Watches both ends; times are printed relative to now.
    pub fn start(ends: Vec<End>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut watcher = Watcher {
                start_ns: clock::now_ns(),
                seen: HashMap::new(),
            };
            // One more round after the flag, for what happened just before it.
            loop {
                let last = flag.load(Ordering::Relaxed);
                ends.iter().for_each(|end| watcher.look(end));
                if last {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    pub fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

struct Watcher {
    start_ns: u64,
    seen: HashMap<(&'static str, &'static str), String>,
}

impl Watcher {
    fn look(&mut self, end: &End) {
        let events: Vec<Event> = {
            let Ok(list) = end.events.lock() else { return };
            let done = self
                .seen
                .get(&(end.name, "events"))
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            self.seen
                .insert((end.name, "events"), list.len().to_string());
            list.iter().skip(done).cloned().collect()
        };
        for event in events {
            let what = match event.name.as_str() {
                "VFIO_MIGRATION" => format!(
                    "QEMU: device {}",
                    event.data["device-state"].as_str().unwrap_or("?")
                ),
                "MIGRATION" => format!(
                    "QEMU: migration {}",
                    event.data["status"].as_str().unwrap_or("?")
                ),
                "STOP" => "QEMU: guest stopped".into(),
                "RESUME" => "QEMU: guest runs".into(),
                _ => continue,
            };
            self.note(end.name, event.at_ns, what);
        }
        if let Ok(status) = Status::read(&end.vf) {
            let now = clock::now_ns();
            self.changed(end.name, "mode", status.mode(), now);
            self.changed(end.name, "state", status.state(), now);
        }
    }

    fn changed(&mut self, end: &'static str, key: &'static str, value: &str, now: u64) {
        let before = self.seen.insert((end, key), value.to_owned());
        if before.as_deref() != Some(value) && !(before.is_none() && key == "state") {
            // The step is called capture, the mode that it leads to emulated.
            let what = if value == "emulated" {
                "captured"
            } else {
                value
            };
            self.note(end, now, format!("driver: {what}"));
        }
    }

    fn note(&self, end: &'static str, at_ns: u64, what: String) {
        println!(
            "  {:>9.1} ms  {end:<12} {what}",
            (at_ns as f64 - self.start_ns as f64) / 1e6
        );
    }
}
