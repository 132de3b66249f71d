//! Hostile clients at a running platform. Each holds real credentials that the platform itself made: the key of a site, the key of
//! a node, a token. What comes of an attack is judged by its effect: what one who may hear everything has heard, what the streams
//! hold, what a process takes in memory, and whether the orders of others are carried out meanwhile.
//!
//! Every hole that was once found by attacking the platform has a test that stays. Where it is not here, it is where the
//! mended part is; `every_hole_has_a_test` looks whether each is still there.
//!
//! | row | what it was | tests |
//! | --- | --- | --- |
//! | X1 | a site's key owned the hub | `tests/hostile/hub.rs::a_site_s_key_opens_nothing_of_the_hub_but_its_own_asks`, `tests/permissions/main.rs::no_answer_goes_where_the_asker_may_not_publish`, `libs/bus/tests/front.rs::a_front_can_publish_into_inboxes_of_the_tier_below_and_nowhere_else` |
//! | X2 | a node's key owned its site | `tests/hostile/site.rs::a_node_s_key_opens_nothing_of_its_site_but_its_own_asks` |
//! | X3 | secrets crossed networks in clear | `tests/end_to_end/tls.rs::a_hub_for_others_without_certificates_does_not_start`, `tests/end_to_end/tls.rs::an_agent_and_a_user_do_not_send_their_secrets_in_clear`, `libs/bus/tests/tls.rs::the_server_says_nothing_in_clear` |
//! | X4 | peers that never read held REST | `tests/hostile/peers.rs::connections_that_never_read_hold_up_nobody`, `libs/service/tests/http.rs::peers_that_pipeline_and_never_read_hold_nothing_for_long_and_nobody_up` |
//! | X5 | inboxes could be guessed, and services forge answers | `tests/hostile/logins.rs::no_inbox_can_be_guessed_from_others`, `tests/permissions/main.rs::nobody_publishes_where_it_may_not_whatever_headers_it_sends` |
//! | X6 | a workload took more than its limits | `wasm-runner/tests/runner/alone.rs::tables_count_against_the_memory_limit`, `wasm-runner/tests/runner/alone.rs::a_request_that_computes_for_ever_is_stopped_and_holds_up_nobody`, `wasm-runner/tests/runner/compiling.rs::a_component_that_takes_too_much_memory_to_compile_is_refused`, `wasm-runner/tests/runner/compiling.rs::a_component_that_takes_too_much_processor_time_to_compile_is_refused`, `wasm-runner/tests/runner/compiling.rs::compiling_ends_with_its_runner`, `wasm-runner/src/log.rs::who_writes_without_end_is_cut_and_one_line_says_how_much_is_missing`, `wasm-runner/tests/runner/supervised.rs::a_port_of_the_platform_s_own_servers_is_refused` |
//! | X7 | small messages became large in memory | `tests/hostile/memory.rs::what_sites_and_nodes_send_never_takes_much_memory`, `libs/bus/src/report/node/tests.rs::what_is_too_long_is_not_decoded` |
//! | X8 | one site filled the hub | `tests/hostile/hub.rs::a_site_that_reports_of_nodes_that_nobody_knows_fills_nothing_and_holds_up_no_other`, `services/status-collector/tests/bus/windows.rs::a_node_over_its_budget_waits_and_its_neighbours_go_on`, `services/status-collector/src/budget.rs::in_seven_days_no_client_fills_a_quarter_of_the_stream` |
//! | X9 | a central service could change another's streams | `tests/hostile/services.rs::the_key_of_a_service_changes_no_stream_that_another_looks_after`, `tests/permissions/main.rs::nobody_publishes_where_it_may_not_whatever_headers_it_sends` |
//! | X10 | what is kept was readable by everybody | `tests/end_to_end/up.rs::up_runs_the_sample_on_both_nodes_and_everything_grows_from_there` |
//! | X11 | a foreign folder was sent the user's token | `edgectl/tests/cli.rs::a_context_that_came_with_the_folder_gets_no_token_from_elsewhere`, `edgectl/tests/cli.rs::a_context_that_others_can_write_to_is_not_used` |
//! | X12 | names in archives forged lines of logs | `tests/hostile/words.rs::no_text_of_an_attacker_forges_a_line_or_steers_a_terminal`, `libs/process/src/one_line.rs::a_name_forges_no_line_and_steers_no_terminal`, `libs/api/src/problem.rs::a_name_in_a_problem_breaks_no_line_and_steers_no_terminal`, `edgectl/src/output.rs::a_text_from_elsewhere_does_not_steer_the_terminal` |
//! | X13 | one artifact token was for everybody | `tests/hostile/tokens.rs::a_token_opens_no_door_but_its_own`, `services/app-registry/tests/bus.rs::an_artifact_token_opens_for_its_owner_only_and_ends_with_its_key`, `services/oci-fetcher/tests/bus.rs::an_artifact_token_opens_for_its_node_only_and_ends_with_its_key` |
//! | X14 | nodes were admitted on a bare word of the hub | `tests/end_to_end/refusals.rs::a_key_that_nobody_signed_for_is_let_in_nowhere`, `tests/end_to_end/refusals.rs::forged_desired_state_is_refused_and_the_last_good_state_stays`, `services/local-orchestrator/tests/site/nodes.rs::only_admitted_nodes_connect_and_a_new_one_disturbs_no_other` |
//! | X15 | a `Retry-After` stopped an agent for ever | `libs/oci/tests/transfer.rs::nobody_is_told_to_wait_for_longer_than_minutes` |
//! | X16 | a busy node starved its site | `tests/hostile/site.rs::a_node_that_floods_its_site_holds_up_no_other`, `tests/hostile/logins.rs::a_storm_of_reconnects_with_one_key_holds_up_nobody` |
//! | X17 | a missing artifact cost a look at every document | `services/local-orchestrator/src/down/artifacts.rs::only_nodes_that_changed_are_read_and_nodes_that_left_want_nothing`, `tests/hostile/site.rs::artifacts_that_nobody_wants_are_asked_for_in_vain_and_hold_up_nobody` |
//! | X18 | a crash while a hub was made was final | `tests/end_to_end/init.rs::a_hub_whose_making_was_cut_off_at_its_first_token_is_made_whole_by_the_next_start`, `tests/end_to_end/up.rs::an_up_beside_another_one_makes_nothing` |
//! | X19 | a site acknowledged what the hub refused | `tests/hostile/site.rs::what_a_site_stores_of_a_hostile_node_the_hub_stores_too`, `libs/bus/src/report/request.rs::the_hub_reads_what_the_site_stores` |
//! | X20 | one trouble ended everything of a site | `services/local-orchestrator/tests/site/nodes.rs::trouble_with_the_disk_of_registrations_leaves_reports_and_the_relay_at_work`, `services/local-orchestrator/tests/site/reports.rs::one_message_that_the_hub_refuses_for_good_holds_up_nobody_and_is_listed`, `services/local-orchestrator/tests/site/nodes.rs::a_node_whose_disk_was_rolled_back_begins_its_next_life`, `services/local-orchestrator/tests/site/roads.rs::a_site_that_lost_its_folder_goes_back_to_no_older_version` |
//! | X21 | one node spoke for the deployments of all others | `tests/hostile/stolen.rs::what_a_node_says_of_the_deployments_of_others_is_shown_to_nobody`, `services/api-gateway/src/domain.rs::nobody_speaks_of_a_deployment_of_another_node`, `services/status-collector/src/store/tests.rs::the_history_of_a_deployment_is_what_its_own_node_said` |
//! | X22 | one node filled the hub's database with ever other deployments | `services/status-collector/src/store/tests.rs::a_node_that_names_ever_new_deployments_is_not_remembered_without_end` |
//! | X23 | whoever was refused filled the logs of a server and of its site | `tests/hostile/stolen.rs::what_a_node_may_not_do_fills_no_log`, `services/local-orchestrator/src/refusals.rs::one_sender_has_a_share_of_the_log` |
//! | X24 | one node hid the refusals of others, and had its site speak without end | `services/local-orchestrator/tests/site/hostile.rs::a_node_that_is_refused_again_and_again_hides_nothing_of_others_and_has_little_written` |
//! | X25 | one node took the names of all metrics, and spoke for services in traces | `services/local-orchestrator/tests/site/hostile.rs::metrics_of_one_node_leave_room_for_those_of_others`, `services/local-orchestrator/tests/site/hostile.rs::spans_of_a_node_carry_its_own_name_whatever_it_says`, `services/local-orchestrator/src/up/telemetry.rs::spans_of_one_node_leave_room_for_those_of_others` |
//! | X26 | one node filled the hub's dead letters | `tests/hostile/site.rs::what_a_site_stores_of_a_hostile_node_the_hub_stores_too`, `services/status-collector/tests/bus/windows.rs::a_node_speaks_of_no_other_device` |
//! | X27 | headers without an end took memory, and one client took all places of a workload's port | `tests/hostile/peers.rs::headers_without_end_take_little_memory`, `wasm-runner/tests/runner/peers.rs::one_client_never_has_all_places_of_the_port` |
//! | X28 | small messages took more of EVENTS than was charged | `libs/bus/tests/bus.rs::a_message_takes_no_more_of_a_stream_than_is_charged_for_it` |

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod hub;
mod logins;
mod memory;
mod peers;
mod services;
mod site;
mod stolen;
mod tokens;
mod words;
mod world;

use std::{fs, path::Path};

#[test]
fn every_hole_has_a_test() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = include_str!("main.rs").lines().filter_map(|line| line.strip_prefix("//! | X"));
    let mut rows = Vec::new();
    for line in table {
        let (row, rest) = line.split_once(" | ").unwrap();
        let tests: Vec<_> = rest.split('`').filter_map(|text| text.split_once("::")).collect();
        assert!(!tests.is_empty(), "X{row} has no test");
        for (file, name) in tests {
            let text = fs::read_to_string(project.join(file)).unwrap_or_else(|error| panic!("X{row}: {file}: {error}"));
            let (before, _) =
                text.split_once(&format!("fn {name}(")).unwrap_or_else(|| panic!("X{row}: no {name} in {file}"));
            let attribute = before.trim_end_matches("async ").trim_end().lines().next_back().unwrap().trim();
            assert!(
                attribute.starts_with("#[") && attribute.contains("test"),
                "X{row}: {name} is no test: {attribute}"
            );
        }
        rows.push(row.parse::<u32>().unwrap());
    }
    assert_eq!(rows, (1..=28).collect::<Vec<_>>());
}
