//! Every figure by name: its unit, its good direction, what it includes and what stands beside it.

use crate::figure::{Better, Kind};

const fn lower(
    name: &'static str,
    unit: &'static str,
    includes: &'static str,
    reference: Option<&'static str>,
) -> Kind {
    Kind { name, unit, better: Better::Lower, includes, reference }
}

const fn rate(name: &'static str, includes: &'static str, reference: &'static str) -> Kind {
    Kind { name, unit: "1/s", better: Better::Higher, includes, reference: Some(reference) }
}

const IMPORT: &str = "`git fast-import` of the same commits, without their signatures, into copies of the same repositories, two processes \
                      at a time, and one `sync`";

const fn signed(name: &'static str, includes: &'static str) -> Kind {
    rate(name, includes, IMPORT)
}

/// In the order of the report.
pub const FIGURES: [Kind; 46] = [
    lower(
        "order_to_wasm_ms",
        "ms",
        "The time from sending `PUT /assignments/hello` (another value of the parameter) until both nodes of the site have \
         answered HTTP with the new value. It includes the transaction, the signed commits, the signed head's way to the \
         site, the stop of the old workload and the start of the new one on both nodes. Every service, NATS server and \
         agent is a process of its own on this machine. Each node is asked as soon as its new runner has noted its start, \
         of which the kernel tells, and again every 0.2 ms while nobody listens; each order begins 100 ms after the one before \
         is shown as installed.",
        Some(
            "the same component started by hand: wasm-runner alone, until its first answer, compiled code in the cache",
        ),
    ),
    lower(
        "order_to_compose_ms",
        "ms",
        "The time from sending `PUT /assignments/pages` (another value of the parameter) until a container on the node has answered \
         HTTP with the new value. The image is in the engine. It includes all that `order_to_wasm_ms` does, and that Compose stops the \
         container before and makes the new one. The engine is one of the measurement's own. The port is asked as soon as the engine says \
         that a container was started. Where Docker cannot run, this is not measured.",
        Some(
            "`docker compose up --detach` by hand with another value in the environment, of the same file on the same engine, \
             until its container has answered with that value",
        ),
    ),
    lower(
        "accepted_ms",
        "ms",
        "The time from sending the same `PUT` until the 202: the order is checked, placed and durable.",
        Some("`GET` of the same assignment: the same way through gateway and bus, without a transaction"),
    ),
    lower(
        "commit_to_site_ms",
        "ms",
        "The time from git-writer's announcement of a commit until the client's site has the answer to its ask, with the signed head, \
         the texts and the documents that changed. The order changes a parameter on each of the site's ten nodes. It includes reading what \
         changed in the commit, checking its signatures, the signal to the site, and its ask. Hub and services are real processes; the \
         site is simulated, and each order begins at rest.",
        Some("the same signal without a commit, until the site has the same answer: signal and ask alone"),
    ),
    lower(
        "start_ms",
        "ms",
        "The time from starting `edgewright up` on existing data (hub, one site, two nodes, one workload on each) until both \
         nodes have answered HTTP. Nothing runs before.",
        Some("the two NATS servers alone on the same data, until both have said their first word"),
    ),
    lower(
        "start_10k_orders_ms",
        "ms",
        "The same start on data that holds more than 10,000 orders: 10,000 assignments on a hundred further nodes, which have \
         no agent.",
        Some("the two NATS servers alone on the same data, until both have said their first word"),
    ),
    lower(
        "dead_workload_back_ms",
        "ms",
        "The time from killing a workload's wasm-runner (SIGKILL) until the workload has answered HTTP again. The workload ran for ten \
         seconds before, so its agent starts it again at once. Each is asked again every 0.2 ms while nobody listens.",
        Some(
            "the same component started by hand: wasm-runner alone, until its first answer, compiled code in the cache",
        ),
    ),
    lower(
        "dead_container_back_ms",
        "ms",
        "The time from the death of a container's process (`docker kill`, which the engine leaves at that) until the container has \
         answered HTTP again. It ran for ten seconds before.",
        Some("the same of a container by hand, after `docker kill` and then `docker start`"),
    ),
    lower(
        "removed_container_back_ms",
        "ms",
        "The same of a container that is removed (`docker rm --force`), from the death of its process.",
        Some("the same of a container by hand, after `docker rm --force` and then `docker compose up --detach`"),
    ),
    signed(
        "signed_orders_per_second",
        "The worst one, compared with its reference, of the figures that follow and end in orders and clients. An order is one signed commit in \
         `fleet.git` and one, with a signed head, in the repository of a client, all of a new assignment. Time is that of git-writer's store, \
         from the decoded rows until branches name the commits and a power cut cannot take them. Up to ten clients, 500 orders are \
         committed together, with a thousand 4,000. Measured by `make bench-long`.",
    ),
    signed("signed_orders_per_second_10k_1", "10,000 orders to one client."),
    signed("signed_orders_per_second_10k_10", "10,000 orders over ten clients."),
    signed("signed_orders_per_second_10k_1000", "10,000 orders over a thousand clients."),
    signed("signed_orders_per_second_100k_1", "100,000 orders to one client. Measured by `make bench-long`."),
    signed("signed_orders_per_second_100k_10", "100,000 orders over ten clients. Measured by `make bench-long`."),
    signed(
        "signed_orders_per_second_100k_1000",
        "100,000 orders over a thousand clients. Measured by `make bench-long`.",
    ),
    Kind {
        name: "signed_orders_last_window_percent",
        unit: "%",
        better: Better::Higher,
        includes: "The rate of the last tenth of the orders in percent of that of the first, in the worst of these cases. Measured by `make bench-long`.",
        reference: None,
    },
    lower(
        "git_kb_per_order_1",
        "KB",
        "What the repositories take on the disk after 100,000 orders to one client, without a repack, for each order.",
        None,
    ),
    lower("git_kb_per_order_10", "KB", "The same over ten clients.", None),
    lower("git_kb_per_order_1000", "KB", "The same over a thousand clients.", None),
    lower("git_kb_per_order_10k_1000", "KB", "The same after 10,000 orders over a thousand clients.", None),
    lower(
        "git_writer_memory_mib",
        "MiB",
        "The most memory (RSS) of the process that commits 100,000 orders to one client, 500 together, with those orders.",
        None,
    ),
    lower(
        "git_writer_memory_1000_mib",
        "MiB",
        "The same of 10,000 orders over a thousand clients, 4,000 together.",
        None,
    ),
    lower(
        "git_writer_memory_100k_1000_mib",
        "MiB",
        "The same of 100,000 orders over a thousand clients. Measured by `make bench-long`.",
        None,
    ),
    lower(
        "git_kept_mb",
        "MB",
        "What `fleet.git` takes on the disk after 100,000 orders, when git-writer has looked after it once: packs and commit-graph. \
         Measured by `make bench-long`.",
        Some("a copy of it after `git gc --aggressive`"),
    ),
    lower(
        "git_log_path_ms",
        "ms",
        "The time that `git log` takes there for the file of one assignment, of a hundred over all orders. Measured by `make bench-long`.",
        Some("the same without its commit-graph"),
    ),
    lower(
        "git_fetch_ms",
        "ms",
        "The time that `git upload-pack` takes there for a client that lacks the newest commit. Measured by `make bench-long`.",
        Some("`git upload-pack` for a client that asks only what there is"),
    ),
    lower(
        "mirror_behind_ms",
        "ms",
        "The time from a new commit in `fleet.git` until the mirror has it, while a hundred orders a second come by REST, each with a commit \
         there and one in the repository of a client. Both are branches of one bare repository on this machine, to which stock git pushes. \
         Measured by `make bench-long`.",
        None,
    ),
    rate(
        "orders_per_second",
        "The worse one of the two figures that follow.",
        "`git fast-import` of the same commits, without their signatures, and one `sync`",
    ),
    rate(
        "orders_per_second_2k",
        "The first 2,000 orders of a new platform. Sixteen clients create assignments by REST, each on one of a hundred \
         nodes without an agent. Time runs from the first request until both `fleet.git` and the repository of the site's \
         client hold a signed commit for each order. git-observer and the site adopt meanwhile, as always.",
        "`git fast-import` of the same commits, without their signatures, and one `sync`",
    ),
    rate(
        "orders_per_second_10k",
        "Batches of 200 orders as above, on a platform that has taken 10,000 before.",
        "`git fast-import` of the same commits, without their signatures, and one `sync`; it continues a copy of the \
         repositories, so Git, too, writes the trees anew that grow with the number of orders",
    ),
    rate(
        "deployments_per_second",
        "One order (an update of one assignment) to ten sites with a hundred nodes each. Time runs from sending the order \
         until REST shows each of the 1,000 deployments as installed; the figure is 1,000 divided by that time. Hub and \
         sites are real processes with their NATS servers. The nodes are 1,000 agents of edge-node's library in one \
         process, each with its own credentials, connection and folder, and with a runtime that starts nothing. Artifacts \
         are on the nodes already.",
        "durable replacements of a small file a second, by as many threads as the simulated agents have",
    ),
    rate(
        "reports_per_second",
        "1,000 simulated LOs with their own credentials and the permissions of production ask a hub that syncs always, at \
         the same time and as the LO's relay does, to store a window each: ten statuses and the ten transitions that led to \
         them. A report is one status with its transition. Time runs from the first window until status-collector has acknowledged all, \
         which it does when its database holds them.",
        "the same windows, written into the streams by 200 sites themselves, each with a connection of its own and an atomic batch for \
         each stream, on a server with the same settings that nobody reads",
    ),
    lower(
        "flooded_report_p99_ms",
        "ms",
        "200 simulated LOs report ten times a second each, a status with its transition in a window, while another one sends \
         windows of ten without pause and without listening. The figure is the time that 99 of 100 of their reports take at most, \
         from when they are due until the hub's answer says that they are stored. A report that is lost fails the measurement.",
        Some("the same without the one that floods"),
    ),
    lower(
        "storm_sites_s",
        "s",
        "The NATS server of a hub restarts, to which 1,000 sites are connected over TLS. The figure is the time from its start until the \
         last site is connected again, was told what its client shall run, and has a report stored. Sites are simulated: each has a key, a login \
         and a connection of its own, and the pauses of an LO. Hub and services are real processes. Measured by `make bench-long`.",
        Some("until the last of them is connected"),
    ),
    lower(
        "change_to_sites_ms",
        "ms",
        "Something was ordered of all of these 1,000 sites while git-observer was away. It comes back and signals them; the figure is the \
         time from the first signal until the last site has what changed. Measured by `make bench-long`.",
        Some("until the last signal"),
    ),
    lower(
        "storm_nodes_s",
        "s",
        "The NATS server of a site with 2,000 nodes is away while an update is ordered of all. The figure is the time from the server's start \
         until each node is connected again over TLS and runs the new revision, and the hub knows. Nodes are agents of edge-node's library in one \
         process, with a runtime that starts nothing. Measured by `make bench-long`.",
        Some("the same order while all are connected, from sending it"),
    ),
    lower(
        "wasm_instantiate_us",
        "µs",
        "The time in which a runner makes the instance for one request, with its limits, its log and its access to what the package          names: the mean of 200 requests, one after the other, as the runner itself counts it. The component is the sample application.",
        Some("an instance of the same component by wasmtime alone, without limits, in the process that measures"),
    ),
    lower(
        "edge_node_pss_mib",
        "MiB",
        "Memory (PSS) of the one agent of the `dist` profile, connected and idle, with one workload. No other process shares the \
         program, so the pages of its file that it has touched count in full: they are most of this figure.",
        None,
    ),
    lower(
        "edge_node_pss_100_mib",
        "MiB",
        "Memory (PSS) of the same agent, idle, with a hundred WebAssembly workloads, each an application of its own.",
        Some("the same agent with one workload, before"),
    ),
    lower(
        "edge_node_pss_docker_mib",
        "MiB",
        "Memory (PSS) of the agent of the `dist` profile that uses a Docker Engine, connected and idle, with one workload of one \
         container.",
        None,
    ),
    lower(
        "wasm_workload_pss_mib",
        "MiB",
        "Memory (PSS) of one wasm-runner of the `dist` profile, idle: the mean of the hundred on that node.",
        Some("the program `sleep`"),
    ),
    lower(
        "idle_cpu_percent_hub",
        "%",
        "Processor time of the hub's processes (NATS server and eight services) over 15 seconds in which nothing is ordered, \
         in percent of one processor. One site with two nodes is connected.",
        Some("the hub's NATS server among them"),
    ),
    lower(
        "idle_cpu_percent_site",
        "%",
        "The same for the site's NATS server, local-orchestrator and oci-fetcher.",
        Some("the site's NATS server among them"),
    ),
    lower(
        "idle_cpu_percent_node",
        "%",
        "The same for one agent with one workload.",
        Some("the workload's wasm-runner among them"),
    ),
    lower(
        "hub_memory_10k_orders_mib",
        "MiB",
        "Memory (PSS) of all processes of the hub together when they have taken 10,000 orders and rest.",
        Some("the same processes before the first of these orders"),
    ),
];

pub fn find(name: &str) -> Option<&'static Kind> {
    FIGURES.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_figure_has_a_name_of_its_own_and_says_what_it_includes() {
        let names: BTreeSet<_> = FIGURES.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), FIGURES.len());
        for kind in &FIGURES {
            assert!(kind.includes.ends_with('.') && !kind.unit.is_empty(), "{}", kind.name);
            assert_eq!(find(kind.name).map(|found| found.name), Some(kind.name));
        }
        assert!(find("no_such_figure").is_none());
    }
}
