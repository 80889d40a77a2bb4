"""Tests that start no ranks and take seconds all the same: `make quick` leaves them out.

Most start processes that import torch, train until something has been learnt, or draw figures. A
test elsewhere that takes seconds is marked where it is, with `@pytest.mark.slow`.
"""

from __future__ import annotations

FILES = {
    "analysis/test_compare_drawn.py",
    "analysis/test_figures.py",
    "analysis/test_prediction.py",
    "analysis/test_prediction_conditions.py",
    "analysis/test_report.py",
    "analysis/test_slow_sde.py",
    "commands/landscape/test_landscape_command.py",
    "commands/sharpness/test_sharpness_command.py",
    "commands/test_output.py",
    "commands/verify/test_verify.py",
    "run/test_resume_auto.py",
    "run/test_ends.py",
    "run/test_other_length.py",
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
    "attach/test_attach_ends.py::test_a_resumed_run_is_bitwise_the_uninterrupted_one",
    "attach/test_attach_leaves_alone.py::test_the_package_imports_nothing_and_has_the_names",
    "attach/test_attach_mistakes.py::"
    "test_a_program_hears_of_it_at_its_exit_but_not_after_its_own_exception",
    "commands/test_merging.py::test_an_optimizer_that_is_named_is_torch_s_own",
    "commands/test_plan.py::test_the_command_runs",
    "run/test_checkpoint.py::test_interrupted_and_resumed_is_uninterrupted_bit_for_bit",
    "run/test_checkpoint.py::test_images_on_disk_go_on_in_mid_epoch",
    "tasks/test_tasks_contract.py::test_training_learns",
}
