"""Every fault that a download must survive, and the tests that show it; each of them exists."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[2]
#: The fault, and the tests that show what comes of it: "file::what follows test_", beneath tests.
SHOWN: dict[str, tuple[str, ...]] = {
    # The network.
    "connection refused, or not taken in time": (
        "contract/test_download_faults::nobody_listening_and_no_such_name_fail_as_unavailable",
        "contract/test_download_network_faults::a_host_that_takes_no_connection_is_given_up_in_time",
    ),
    "a name that fails, fails for a moment, leads elsewhere meanwhile": (
        "contract/test_download_faults::nobody_listening_and_no_such_name_fail_as_unavailable",
        "contract/test_download_network_faults::a_name_that_cannot_be_resolved_for_a_moment_is_tried_again",
        "contract/test_download_network_faults::a_name_that_leads_elsewhere_meanwhile_is_looked_up_again",
    ),
    "one of several addresses is a black hole": (
        "contract/test_download_network_faults"
        "::an_address_that_takes_no_connection_is_no_obstacle_if_the_name_has_another",
    ),
    "reset before the headers, in the body, at the last byte; a body that is cut": (
        "contract/test_download_network_faults::a_connection_reset_before_a_byte_came_is_made_again",
        "contract/test_download_faults::a_broken_body_is_gone_on_with_where_it_broke",
        "contract/test_download_several_connections::connections_that_break_are_made_again_or_done_without",
        "contract/test_download_several_connections::a_connection_that_breaks_at_the_last_byte_costs_that_byte",
    ),
    "headers that break off": (
        "contract/test_download_faults"
        "::headers_that_break_off_are_tried_again_and_once_it_answered_what_is_no_http_too",
    ),
    "no byte for long, or hardly any; one slow connection among good ones": (
        "contract/test_download_faults::a_stall_is_noticed_and_the_bytes_are_kept",
        "contract/test_download_faults::a_trickle_counts_as_a_stall",
        "contract/test_download_several_connections::what_one_connection_hardly_brings_others_fetch",
    ),
    "408, 425, 429, 500, 502, 503, 504, 522, 524": (
        "contract/test_download_faults::a_passing_status_is_tried_again",
        "contract/test_download_faults::a_status_that_does_not_pass_fails_after_the_attempts",
    ),
    "Retry-After in seconds, as a date, absurd; RateLimit": (
        "contract/test_download_faults::retry_after_is_obeyed_and_shown",
        "contract/test_download_faults::an_absurd_retry_after_is_capped_and_a_waiting_job_pauses_and_cancels",
        "contract/test_download_refusals::a_rate_limit_is_heeded_and_shown",
    ),
    "400, 401, 403 of a signed address that ran out": (
        "contract/test_download_faults::an_expired_storage_address_is_asked_for_anew",
        "contract/test_download_nodes::a_job_whose_address_ran_out_goes_on_with_a_new_one",
        "contract/test_download_several_connections"
        "::an_address_that_runs_out_is_asked_for_anew_once_for_all_connections",
    ),
    "a refusal of extra connections, or of more than so many; a queue for them": (
        "contract/test_download_several_connections::a_source_that_refuses_a_second_connection_has_one",
        "contract/test_download_several_connections::a_source_that_bears_three_connections_has_three",
        "contract/test_download_several_connections::connections_that_wait_without_an_answer_hold_nobody_up",
        "contract/test_download_several_connections"
        "::a_host_has_no_more_connections_than_it_may_whoever_wants_them",
    ),
    "redirects: a loop, too many, from https to http": (
        "contract/test_download_faults::what_is_no_file_fails_at_once_and_leaves_nothing",
        "unit/download/test_download_guard::more_hops_than_allowed_fail",
        "unit/download/test_download_guard::https_is_checked_and_never_downgraded",
    ),
    "redirects: the token to another host, and to the same": (
        "contract/test_download_faults::a_token_never_goes_to_another_host",
        "contract/test_download_faults::a_token_stays_with_its_host_on_a_redirect",
        "unit/download/test_download_guard::credentials_are_not_sent_again_after_another_host_even_back_home",
    ),
    "a proxy that is down, wants a password, or says nothing": (
        "unit/download/test_download_proxies::what_goes_wrong_at_the_proxy_is_said_of_the_proxy",
        "unit/download/test_download_proxies::a_proxy_that_is_down_may_come_back_and_one_without_a_name_does_not",
        "unit/download/test_download_proxies::a_proxy_that_never_answers_is_given_up",
        "interop/test_forward_proxy::a_proxy_that_goes_down_and_comes_back_costs_no_byte_that_is_there",
    ),
    # The protocol.
    "Range ignored; 206 with a wrong Content-Range, or without": (
        "contract/test_download_faults::a_source_that_does_not_resume_is_asked_for_all",
        "contract/test_download_several_connections"
        "::an_extra_connection_that_serves_something_else_is_not_believed",
    ),
    "206 with wrong bytes": (
        "contract/test_download_faults"
        "::a_file_of_several_answers_with_a_wrong_hash_is_fetched_once_more_in_one_piece",
        "contract/test_download_several_connections"
        "::wrong_bytes_on_one_connection_are_found_by_the_hash_and_all_is_fetched_once_more",
    ),
    "416 of an object that is whole, and of one that became shorter": (
        "contract/test_download_nodes"
        "::a_range_that_is_refused_costs_no_byte_while_size_and_validator_are_unchanged",
        "contract/test_download_faults::a_416_to_a_request_without_a_range_is_no_change_of_the_object",
        "contract/test_download_network_faults"
        "::an_object_that_became_shorter_than_what_is_there_is_fetched_anew",
    ),
    "multipart/byteranges; fewer bytes than asked for": (
        "contract/test_download_network_faults"
        "::a_range_in_another_form_than_asked_for_is_never_taken_for_the_rest",
        "contract/test_download_several_connections"
        "::an_extra_connection_that_serves_something_else_is_not_believed",
    ),
    "an encoded body": (
        "contract/test_download_faults::what_is_no_file_fails_at_once_and_leaves_nothing",
        "unit/download/test_download_http1::a_body_that_is_encoded_is_refused_in_every_spelling",
    ),
    "no length; chunks; HTTP/1.0": (
        "contract/test_download_faults::a_body_without_a_length_arrives",
        "contract/test_download_faults::a_chunked_body_that_breaks_starts_over",
        "contract/test_download_network_faults::what_is_odd_about_a_connection_is_no_obstacle",
        "contract/test_download_several_connections::what_cannot_be_shared_comes_over_one_connection",
    ),
    "a kept connection that is closed unsaid, or sends what nobody asked for": (
        "contract/test_download_network_faults::what_is_odd_about_a_connection_is_no_obstacle",
        "contract/test_download_several_connections"
        "::what_a_connection_sends_unasked_is_not_taken_for_the_next_answer",
    ),
    "another ETag, date or size in the middle": (
        "contract/test_download_faults::an_object_that_changed_is_fetched_anew_and_never_mixed",
        "contract/test_download_faults::an_object_that_changes_twice_fails",
        "contract/test_download_promises"
        "::another_object_of_the_same_size_is_never_mixed_in_where_only_dates_tell",
        "contract/test_download_several_connections"
        "::an_object_that_changes_between_pieces_is_fetched_anew_and_never_mixed",
    ),
    "weak ETags, or none": (
        "contract/test_download_faults::without_a_strong_validator_a_broken_body_starts_over",
        "contract/test_download_faults::an_old_last_modified_is_validator_enough",
    ),
    "nodes that name equal bytes differently": (
        "contract/test_download_nodes::nodes_that_name_equal_bytes_differently_cost_no_byte_that_is_there",
        "contract/test_download_nodes::with_an_expected_hash_nodes_do_not_matter",
    ),
    "a web page, an error or a pointer in place of the file": (
        "contract/test_download_contents::what_is_sent_in_place_of_the_file_is_refused_as_what_it_is",
        "contract/test_download_network_faults::a_login_page_in_the_middle_costs_no_byte_that_is_there",
    ),
    "an empty file": ("contract/test_download_faults::an_empty_file_arrives",),
    "what is no HTTP": (
        "unit/download/test_download_http1::what_is_not_understood_is_an_error_that_says_so",
        "unit/download/test_download_http1::any_bytes_end_in_a_known_error_or_in_a_file",
    ),
    # The bytes.
    "a byte flipped on the way": (
        "contract/test_download_faults::a_flipped_byte_is_caught_by_the_expected_hash",
    ),
    "a hash that is wrong itself": (
        "contract/test_download_jobs::a_wrong_hash_is_quarantined_and_never_delivered",
        "contract/test_download_several_connections"
        "::bytes_that_stay_wrong_are_set_apart_and_not_fetched_a_third_time",
    ),
    "no hash": ("contract/test_download_jobs::a_url_arrives_whole_hashed_and_unverified",),
    # This machine.
    "a full disk: before, in the middle, at a sync, at a row": (
        "contract/test_download_full_disk::what_does_not_fit_is_refused_before_a_byte_is_written",
        "contract/test_download_full_disk::a_disk_that_others_fill_pauses_a_job_and_a_cancel_gives_the_room_back",
        "contract/test_download_full_disk::a_job_that_paused_for_a_full_disk_goes_on_by_itself_when_there_is_room",
        "contract/test_download_local_faults::what_a_failed_sync_was_to_cover_is_written_again",
        "unit/download/test_download_scheduler::a_delivery_that_cannot_be_recorded_is_recorded_when_there_is_room",
        "unit/download/test_download_scheduler"
        "::a_try_whose_end_cannot_be_recorded_runs_again_when_there_is_room",
    ),
    "a quota": (
        "contract/test_download_local_faults::a_quota_that_is_used_up_pauses_the_job_with_its_bytes",
    ),
    "a disk that fails under a write, a sync, the last sync": (
        "contract/test_download_local_faults"
        "::a_disk_that_fails_under_a_write_ends_the_job_and_frees_its_slot",
        "contract/test_download_local_faults::what_a_failed_sync_was_to_cover_is_written_again",
        "contract/test_download_local_faults::a_file_that_cannot_be_made_durable_is_not_delivered",
    ),
    "a file system that is read only, or forbidden": (
        "contract/test_download_faults::a_folder_that_may_not_be_written_is_told_with_the_remedy",
    ),
    "the destination's folder is removed, or replaced by a link; the partial file is damaged": (
        "contract/test_download_local_faults::a_destination_that_is_removed_while_bytes_come_is_made_again",
        "contract/test_download_places::a_folder_swapped_for_a_link_while_running_is_not_followed",
        "contract/test_download_local_faults::a_partial_file_that_somebody_else_damaged_is_fetched_anew",
    ),
    "paths that no file can have; files that are there already": (
        "contract/test_download_places::a_path_that_the_file_system_cannot_have_is_a_bad_field",
        "contract/test_download_places::a_file_that_appears_meanwhile_is_not_replaced_either",
    ),
    "no descriptor to be had": (
        "contract/test_download_local_faults"
        "::without_a_descriptor_to_be_had_jobs_wait_and_go_on_when_there_are",
    ),
    "SIGKILL in every state": (
        "contract/test_download_many_kills::kills_cost_no_byte_and_few_are_fetched_twice",
        "contract/test_download_kills"
        "::killed_in_the_middle_it_goes_on_from_the_last_checkpoint_with_a_range_request",
        "contract/test_download_kills::a_file_renamed_but_not_recorded_is_recognised",
    ),
    "SIGTERM": ("contract/test_download_kills::a_drained_service_keeps_every_byte_and_goes_on",),
    "power loss in every state": (
        "contract/test_download_many_kills::power_cuts_cost_no_byte_and_no_job_that_was_answered",
        "contract/test_download_many_kills::the_power_may_go_just_after_the_first_start",
    ),
    "two processes on one root": (
        "contract/test_download_jobs::a_second_service_on_the_same_folder_refuses_to_start",
    ),
    "a clock that jumps": (
        "contract/test_download_local_faults::a_clock_that_jumps_changes_no_wait_and_no_file",
    ),
    "a database that is busy, or is none": (
        "contract/test_download_local_faults::rows_that_cannot_be_written_for_a_while_cost_no_byte",
        "unit/common/test_common_db::what_is_not_our_database_is_refused_with_65_and_left_alone",
    ),
    "a thread that dies": (
        "contract/test_download_local_faults::a_thread_that_dies_ends_its_job_and_frees_its_slot",
    ),
    "a reader of a stream that is slow, or gone": (
        "contract/test_common_gates::readers_that_vanish_in_the_middle_are_no_errors",
        "contract/test_common_pitfalls_calls"
        "::pitfall_26_a_stalled_reader_slows_nobody_and_is_ended_with_its_last_token",
    ),
    # What is asked for.
    "pause, start, cancel, priority in every state, and raced": (
        "unit/download/test_download_scheduler::a_pause_keeps_what_is_there_and_the_job_stays_where_it_is",
        "unit/download/test_download_scheduler::a_cancel_leaves_nothing_behind",
        "contract/test_download_races::calls_at_any_moment_leave_no_job_stuck_and_no_file_behind",
        "contract/test_download_faults::a_pause_during_a_hang_does_not_wait_for_it",
        "contract/test_download_several_connections"
        "::a_pause_ends_all_connections_at_once_and_a_start_fetches_only_what_lacks",
    ),
    "the same request again, with the same options and with others": (
        "contract/test_download_jobs::a_repeated_request_answers_with_the_same_job",
        "contract/test_download_shown_alike::a_request_id_is_not_answered_with_the_download_of_another_address",
    ),
    "a token that is wrong, or taken back in the middle; gates of all kinds": (
        "contract/test_download_faults::a_token_opens_and_a_wrong_one_is_rejected",
        "contract/test_download_refusals::a_refusal_in_the_middle_pauses_the_job_with_its_bytes",
        "contract/test_download_refusals::the_sources_own_sentence_tells_the_reasons_of_refusals_apart",
    ),
    "names that lead out of the folder": (
        "contract/test_download_places::in_a_folder_the_name_is_one_safe_component",
        "unit/download/test_download_rules::unsafe_names_are_told",
    ),
    "private addresses, in every spelling and after a look-up": (
        "contract/test_download_faults::private_addresses_are_not_asked_by_default",
        "unit/download/test_download_guard::a_name_that_is_public_when_asked_and_private_when_connected_is_refused",
        "unit/download/test_download_guard::every_hop_of_a_redirect_is_checked",
    ),
    "secrets in rows, logs, events": (
        "contract/test_download_kills::secrets_live_in_memory_only_and_a_restart_asks_for_them",
        "contract/test_secrets_in_addresses::no_secret_of_an_address_is_left_anywhere",
    ),
}


@cache
def _parsed(file: str) -> ast.Module:
    return ast.parse((_TESTS / f"{file}.py").read_text("utf-8"))


@pytest.mark.parametrize("fault", SHOWN)
def test_every_test_that_is_said_to_show_a_fault_is_there(fault: str) -> None:
    assert SHOWN[fault]
    for shown in SHOWN[fault]:
        file, name = shown.split("::")
        tree = _parsed(file)
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert f"test_{name}" in names, shown
