// SPDX-License-Identifier: GPL-2.0

//! Says what an input means, and runs it: `cargo run -p fuzz --example replay TARGET FILE`.

use fuzz::TARGETS;

fn main() {
    let mut args = std::env::args().skip(1);
    let (name, file) = (args.next().unwrap_or_default(), args.next());
    let target = TARGETS.iter().find(|target| target.name == name);
    let (Some(target), Some(file)) = (target, file) else {
        let names = TARGETS.map(|target| target.name).join("|");
        eprintln!("usage: replay {names} FILE");
        std::process::exit(1);
    };
    let data = std::fs::read(file).expect("an input that can be read");
    for act in (target.show)(&data) {
        println!("{act}");
    }
    println!("{:?}", (target.run)(&data));
}
