// SPDX-License-Identifier: GPL-2.0

//! What one turn does, with a device that is done before the doorbell's write returns; and which vectors a release raises.

use crate::flow::{frame, machine};
use crate::guest::{Cut, ONE_BUFFER};

#[test]
fn what_the_device_sends_at_once_is_completed_in_the_same_turn() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.turns(1);
    m.world.borrow_mut().raised = 0;
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.turns(1);
    assert_eq!((m.load(0x3810), m.world.borrow().raised), (1, 1));
}

#[test]
fn what_is_done_before_and_during_a_turn_raises_the_vector() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.turns(1);
    m.world.borrow_mut().stalled = true;
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.turns(1);
    {
        let mut w = m.world.borrow_mut();
        (w.stalled, w.raised) = (false, 0);
        w.transmit(0);
    }
    g.send(&mut m, &frame(1, 60), Cut::default());
    m.turns(1);
    assert_eq!((m.load(0x3810), m.world.borrow().raised), (2, 1));
}

#[test]
fn a_release_raises_the_queues_and_the_mailbox_only_if_it_has_news() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    for (pinged, raised) in [(false, 3), (true, 7)] {
        m.capture();
        if pinged {
            m.world.borrow_mut().ping();
        }
        m.world.borrow_mut().raised = 0;
        m.release().unwrap();
        assert_eq!(std::mem::take(&mut m.world.borrow_mut().raised), raised);
    }
}
