//! What a policy change costs, how large things are, and whether a reader notices a swap.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use sov_tests::cpu;

use crate::{
    Effort,
    model::{Group, Section},
    programs::frame,
    progress::Progress,
    rig::{Kind, Rig},
    stats,
    tables::{MARK, SET, Table, targets, thousands},
};

pub(crate) const BUILD: &str = "build";
pub(crate) const PUBLISH: &str = "publish";
pub(crate) const LIVE: &str = "live";
pub(crate) const SIZE: &str = "size";

pub(crate) fn section(
    rig: &mut Rig,
    tables: &[Table],
    refused: &[(String, String)],
    effort: &Effort,
    progress: &Progress,
) -> Section {
    let mut groups = vec![];
    for table in tables {
        progress.step(&format!("policy change, {}", table.name));
        groups.push(change(rig, table, effort));
    }
    for (name, why) in refused {
        let row = stats::absent(LIVE, "built and live", format!("refused: {why}"));
        groups.push(Group { title: name.clone(), rows: vec![row], ..Group::default() });
    }
    if let Some(table) = tables.first() {
        progress.step("a reader while images are swapped");
        groups.push(swap(rig, table, effort));
    }
    let about = [
        "Build: policy text and loaded data to a finished image, which is what a reload does; reading \
         the data files is not in it. Publish: a fresh slot is filled and made live by one pointer \
         write; it contains the kernel's wait until no packet uses the old image.",
        "The reader runs the tc program on allowed packets on one CPU, while another thread swaps \
         images without a pause, or sleeps.",
    ];
    Section {
        id: "upkeep".into(),
        title: "Policy change, memory".into(),
        about: about.map(str::to_owned).to_vec(),
        plots: vec![],
        groups,
    }
}

fn change(rig: &mut Rig, table: &Table, effort: &Effort) -> Group {
    let (mut build, mut publish) = (vec![], vec![]);
    // The first is not kept.
    for round in 0..=effort.changes {
        let built = table.build_ms();
        let start = Instant::now();
        rig.publish(table);
        if round > 0 {
            build.push(built);
            publish.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let live: Vec<f64> =
        build.iter().zip(&publish).map(|(build, publish)| build + publish).collect();
    let bytes = table.image().words().len() as f64 * 4.0;
    let mut size = stats::single(SIZE, "image", bytes / f64::from(1 << 20));
    size.note = "MiB".into();
    Group {
        id: format!("change.{}", table.id),
        title: format!(
            "{}: {} + {} intervals",
            table.name,
            thousands(table.intervals(4).len()),
            thousands(table.intervals(6).len()),
        ),
        unit: "ms".into(),
        base: "built and live".into(),
        rows: vec![
            stats::row_by(BUILD, "build", &build, &live),
            stats::row_by(PUBLISH, "publish", &publish, &live),
            stats::row_by(LIVE, "built and live", &live, &live),
            size,
        ],
    }
}

fn swap(rig: &mut Rig, table: &Table, effort: &Effort) -> Group {
    rig.publish(table);
    rig.set_targets(0, &targets(&table.judged(4, true)));
    let frame = frame(4, false);
    let (mut quiet, mut busy, mut swaps) = (vec![], vec![], 0u32);
    for round in 0..=effort.rounds {
        for swapping in [false, true] {
            let done = AtomicBool::new(false);
            rig.aim(0, SET as u32, 0);
            let (reader, publisher) = rig.split();
            let time = thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    cpu::unpin();
                    let mut count = 0;
                    while swapping && !done.load(Ordering::Relaxed) {
                        publisher.publish(table);
                        count += 1;
                    }
                    count
                });
                let (_, time) = reader.run(Kind::Egress, &frame, MARK, 4 * effort.packets);
                done.store(true, Ordering::Relaxed);
                swaps += writer.join().expect("the swaps succeed");
                time
            });
            if round > 0 {
                if swapping { busy.push(time) } else { quiet.push(time) }
            }
        }
    }
    let mut row = stats::row_by("swapping", "while images are swapped", &busy, &quiet);
    row.note = format!("{swaps} swaps");
    Group {
        id: "swap".into(),
        title: format!("a reader of {}", table.name),
        unit: "ns per packet, hook program and loop".into(),
        base: "no swap".into(),
        rows: vec![stats::row_by("quiet", "no swap", &quiet, &quiet), row],
    }
}
