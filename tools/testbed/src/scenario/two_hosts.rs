// SPDX-License-Identifier: GPL-2.0
//! Two hosts, as users have them: two machines on one segment, a VF of each, and the stream goes over the network between
//! their PFs. The client is on the first, and so is the guest to begin with; the second does what the first asks it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use serde::{de::DeserializeOwned, Deserialize, Serialize};

use super::bed::{
    require_assigned, require_narrow, require_tracked, wait_precopy, Bed, Traffic, SOON,
};
use crate::clock::wait_for;
use crate::command;
use crate::l2::{Options, L2};
use crate::migration::{self, Report};
use crate::status::Status;

/// The name of the scenario that the second host runs.
pub const SECOND: &str = "second_host";
/// Of the first PF of each.
const FIRST_IP: &str = "10.1.0.1";
const SECOND_IP: &str = "10.1.0.2";
const ASK_PORT: u16 = 7100;
const STREAM_PORT: u16 = 7200;
/// The longest that the second host takes for one thing: a whole migration.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

/// What the first host asks of the second.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// Start a QEMU that waits for a guest.
    Await,
    /// That guest is to run there, and its VF to be assigned.
    HasArrived,
    /// Migrate it to where the first host waits for it.
    SendBack,
    /// End that QEMU: there is no guest in it.
    GiveUp,
    /// That is all.
    End,
}

pub fn two_hosts(bed: &Bed) -> Result<()> {
    address(bed, FIRST_IP)?;
    let vf = bed.pinned_vfs()?.a;
    let mut second = Second::reach()?;
    let mut guest = bed.source(&vf, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    println!("two hosts: the guest runs on the first, on {vf}");

    second.ask::<()>(&Ask::Await)?;
    migration::prepare(&mut guest)?;
    migration::slow_down(&mut guest)?;
    migration::start(&mut guest, &uri(SECOND_IP))?;
    wait_precopy(&mut guest)?;
    guest.cmd("migrate_cancel")?;
    let report = migration::wait(&mut guest)?;
    ensure!(report.status == "cancelled", "{report:?}");
    second.ask::<()>(&Ask::GiveUp)?;
    require_assigned(&vf)?;
    traffic.require()?;
    migration::speed_up(&mut guest)?;
    println!("two hosts: a migration was cancelled, the guest runs on, assigned");

    second.ask::<()>(&Ask::Await)?;
    migration::start(&mut guest, &uri(SECOND_IP))?;
    let there = migration::wait(&mut guest)?;
    ensure!(there.status == "completed", "{there:?}");
    second.ask::<()>(&Ask::HasArrived)?;
    require_tracked(&vf, &Status::read(&vf)?)?;
    guest.quit()?;
    traffic.require()?;
    told("to the second", &there)?;

    let mut guest = bed.destination(&vf)?;
    migration::listen(&mut guest, &uri(FIRST_IP))?;
    let back: Report = second.ask(&Ask::SendBack)?;
    ensure!(back.status == "completed", "{back:?}");
    migration::wait_running(&mut guest)?;
    require_assigned(&vf)?;
    second.ask::<()>(&Ask::GiveUp)?;
    traffic.require()?;
    told("back to the first", &back)?;
    second.ask::<()>(&Ask::End)?;
    traffic.finish().map(drop)
}

fn told(way: &str, report: &Report) -> Result<()> {
    println!(
        "two hosts: {way}: downtime {} ms, total {} ms, device state {} bytes",
        report.downtime_ms, report.total_ms, report.device_bytes
    );
    require_narrow(report)
}

/// The address by which the two hosts speak to each other.
fn address(bed: &Bed, ip: &str) -> Result<()> {
    let netdev = &bed.host.pfs[0].netdev;
    command::run(&format!("ip addr add {ip}/24 dev {netdev}")).map(drop)
}

fn uri(ip: &str) -> String {
    format!("tcp:{ip}:{STREAM_PORT}")
}

/// The second host, as the first sees it.
struct Second(BufReader<TcpStream>);

impl Second {
    fn reach() -> Result<Self> {
        // It boots beside us.
        let stream = wait_for("the second host", SOON * 4, || {
            Ok(TcpStream::connect((SECOND_IP, ASK_PORT)).ok())
        })?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn ask<T: DeserializeOwned>(&mut self, what: &Ask) -> Result<T> {
        let mut line = serde_json::to_string(what)? + "\n";
        self.0.get_mut().write_all(line.as_bytes())?;
        line.clear();
        self.0.read_line(&mut line)?;
        match serde_json::from_str(&line)
            .with_context(|| format!("the second host: {what:?}: {line:?}"))?
        {
            Ok(answer) => Ok(answer),
            Err::<T, String>(why) => bail!("the second host: {what:?}: {why}"),
        }
    }
}

/// What the second host does until the first has had enough, or is gone.
pub fn second_host(bed: &Bed) -> Result<()> {
    address(bed, SECOND_IP)?;
    let vf = bed.pinned_vfs()?.a;
    let listener = TcpListener::bind((SECOND_IP, ASK_PORT))?;
    let (stream, _) = listener.accept()?;
    let mut answers = stream.try_clone()?;
    let mut guest = None;
    for line in BufReader::new(stream).lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let answer = answer(bed, &vf, &mut guest, &ask).map_err(|e| format!("{e:#}"));
        answers.write_all((serde_json::to_string(&answer)? + "\n").as_bytes())?;
        if matches!(ask, Ask::End) {
            return Ok(());
        }
    }
    bail!("the first host went away")
}

fn answer(bed: &Bed, vf: &str, guest: &mut Option<L2>, ask: &Ask) -> Result<serde_json::Value> {
    match ask {
        Ask::Await => {
            let machine = guest.insert(bed.destination(vf)?);
            migration::listen(machine, &uri(SECOND_IP))?;
        }
        Ask::HasArrived => {
            migration::wait_running(guest.as_mut().context("no guest is awaited")?)?;
            require_assigned(vf)?;
        }
        Ask::SendBack => {
            let machine = guest.as_mut().context("no guest is here")?;
            migration::start(machine, &uri(FIRST_IP))?;
            return Ok(serde_json::to_value(migration::wait(machine)?)?);
        }
        Ask::GiveUp => {
            if let Some(machine) = guest.take() {
                machine.quit()?;
            }
        }
        Ask::End => {}
    }
    Ok(serde_json::Value::Null)
}
