//! What a platform costs that has nothing to do: `idle_cpu_percent_hub`, `…_site` and `…_node`.

use std::time::{Duration, Instant};

use end_to_end::Platform;
use tokio::time::sleep;

use crate::{
    Effort, Samples, machine,
    platform::{self, NODES},
};

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let mut running = Platform::with_sample(None).await;
    let window = Duration::from_secs(effort.of(5, 15, 60) as u64);
    machine::rest(&platform::all_processes(&mut running)).await?;
    let runners = platform::workloads(&running.node(NODES[0]));
    let agent = running.process(&format!("plant.{}", NODES[0])).id();
    // Each group beside the part of it that is not ours, or that does the work.
    let groups = [
        ("idle_cpu_percent_hub", platform::hub_processes(&mut running), vec![running.process("hub-nats").id()]),
        ("idle_cpu_percent_site", platform::site_processes(&mut running), vec![running.process("plant.nats").id()]),
        ("idle_cpu_percent_node", [&[agent], runners.as_slice()].concat(), runners.clone()),
    ];
    let mut samples = groups.each_ref().map(|(name, ..)| Samples::new(name));
    for _ in 0..effort.of(1, 3, 5) {
        let used = || -> anyhow::Result<Vec<(f64, f64)>> {
            groups.iter().map(|(_, all, part)| Ok((machine::cpu_seconds(all)?, machine::cpu_seconds(part)?))).collect()
        };
        let (begin, before) = (Instant::now(), used()?);
        sleep(window).await;
        let (took, after) = (begin.elapsed().as_secs_f64(), used()?);
        for ((sample, before), after) in samples.iter_mut().zip(before).zip(after) {
            sample.values.push((after.0 - before.0) / took * 100.0);
            sample.references.push((after.1 - before.1) / took * 100.0);
        }
    }
    Ok(samples.into())
}
