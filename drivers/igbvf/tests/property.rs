// SPDX-License-Identifier: GPL-2.0

//! Lives at random: whatever happens to a VF, its guest's frames arrive once, in order and whole.

mod act;
mod life;
mod pages;
mod story;

use conformance::rules::for_all;

use life::Life;

#[test]
fn frames_of_any_life_arrive_once_in_order_and_whole() {
    for_all(6000, story::story(60), |story| {
        let mut life = Life::begin(&story.host, &story.setup);
        for act in &story.acts {
            life.act(act);
        }
        life.end();
    });
}
