"""Tests that start no ranks and take seconds all the same: `make quick` leaves them out.

Most start processes that import torch, train until something has been learnt, or draw figures. A
test elsewhere that takes seconds is marked where it is, with `@pytest.mark.slow`.
"""

from __future__ import annotations

FILES = {
    "analysis/test_compare_drawn.py",
    "analysis/test_figures.py",
    "analysis/test_figures_for_a_paper.py",
    "analysis/test_pages_in_chromium.py",
    "analysis/test_prediction.py",
    "analysis/test_prediction_conditions.py",
    "analysis/test_report.py",
    "analysis/test_slow_sde.py",
    "benchmarks/test_frontier.py",
    "commands/landscape/test_landscape_command.py",
    "commands/sharpness/test_sharpness_command.py",
    "commands/sweep/test_sweep.py",
    "commands/test_derived_files.py",
    "commands/test_export.py",
    "commands/test_output.py",
    "commands/verify/test_verify.py",
    "restated/test_restated_attached.py",
    "run/test_checkpoint.py",
    "run/test_ends.py",
    "run/test_extend.py",
    "run/test_resume_auto.py",
    "run/test_runs_of_0_1_0.py",
    "run/test_watchdog.py",
    "slurm/test_job.py",
    "tasks/test_digit_images.py",
    "tasks/test_execution.py",
    "tasks/vision/test_images_on_disk.py",
    "tasks/vision/test_loader_processes.py",
    "test_recipes.py",
    "test_wrong_launches.py",
    "trajectory/test_survival.py",
}
TESTS = {
    "analysis/test_timeline.py::test_the_report_writes_a_trace_when_asked",
    "attach/test_attach_ends.py::test_a_resumed_run_is_bitwise_the_uninterrupted_one",
    "attach/test_attach_leaves_alone.py::test_the_package_imports_nothing_and_has_the_names",
    "attach/test_attach_mistakes.py::"
    "test_a_program_hears_of_it_at_its_exit_but_not_after_its_own_exception",
    "commands/test_config.py::test_no_short_name_has_gone_and_every_one_works",
    "commands/test_merging.py::test_a_named_class_has_its_own_defaults_whatever_it_is",
    "commands/test_merging.py::test_an_optimizer_that_is_named_is_torch_s_own",
    "commands/test_odd_command_lines.py::test_a_file_is_done_or_refused",
    "commands/test_odd_command_lines.py::test_other_commands_refuse_what_is_no_run",
    "commands/test_odd_command_lines.py::test_plan_does_or_refuses_and_writes_nothing",
    "commands/test_odd_command_lines.py::test_train_does_or_refuses",
    "commands/test_plan.py::test_the_command_runs",
    "commands/test_plan.py::test_training_sends_what_was_planned_and_as_long",
    "commands/test_trust.py::test_neither_a_file_nor_a_record_runs_anything",
    "commands/test_whatif.py::test_an_answer_is_what_a_simulated_run_bills",
    "commands/test_whatif.py::test_what_cannot_be_answered_is_refused_in_a_line",
    "contract/test_algorithms.py::test_interrupted_and_resumed_is_uninterrupted_bitwise",
    "environment/test_torchvision_import.py::test_torchvision_beside_this_torch",
    "restated/test_checkpoints_hold_everything.py::"
    "test_from_every_step_on_a_resumed_run_is_the_same",
    "run/test_measured.py::test_the_spread_comes_near_its_target",
    "run/test_probes.py::test_measuring_does_not_change_the_run_or_its_bill",
    "tasks/test_tasks_contract.py::test_training_learns",
    "tasks/vision/test_models.py::test_every_batchnorm_is_replaced",
    "test_launching.py::test_tests_that_share_a_launch_run_in_one_process",
}
