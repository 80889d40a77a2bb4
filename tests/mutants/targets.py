"""What is mutated, and the tests that should notice: those that run in this process, in seconds."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hpc_localsgd"

_RESTATED = [
    "tests/restated/test_restated.py",
    "tests/restated/test_restated_claims.py",
    "tests/contract/test_frozen.py",
]
_LOOP = [
    "tests/test_loop.py",
    "tests/test_moments_at_a_sync.py",
    "tests/test_loop_on_quadratics.py",
]
_APART = "tests/attach/test_attach_leaves_alone.py"

# Fast ones first: a fault that dies early is tried soon.
TARGETS: dict[str, list[str]] = {
    "algorithms": [
        *_RESTATED,
        "tests/restated/test_checkpoints_hold_everything.py",
        "tests/restated/test_restated_on_ranks.py",
        "tests/contract/test_algorithms.py",
        "tests/contract/test_algorithms_in_theory.py",
        "tests/contract/test_what_algorithms_accept.py",
        "tests/contract/test_last_exchange.py",
        "tests/contract/test_edges_of_algorithms.py",
    ],
    "compressors": [*_RESTATED, "tests/compressors"],
    "gradients": [*_RESTATED, "tests/gradients"],
    "schedules": ["tests/restated/test_restated_schedules.py", *_RESTATED, "tests/schedules"],
    "engine": [
        *_RESTATED,
        "tests/restated/test_restated_on_ranks.py",
        "tests/engine",
        "tests/contract/test_quarantine.py",
        *_LOOP,
    ],
    "loop.py": [
        *_RESTATED,
        "tests/restated/test_restated_schedules.py",
        *_LOOP,
        "tests/engine/test_overlap.py",
    ],
    "run/checkpoint": [
        "tests/restated/test_when_places_are_kept.py",
        "tests/restated/test_checkpoints_hold_everything.py",
        "tests/restated/test_places_of_a_run.py",
        "tests/restated/test_how_a_rank_stops.py",
        "tests/run/test_checkpoint_folders.py",
        "tests/run/test_checkpoints_agreed_on.py",
        "tests/run/test_strange_checkpoints.py",
        "tests/run/test_checkpoint.py",
        "tests/run/test_damaged_checkpoints.py",
        "tests/run/test_what_can_be_resumed.py",
        "--deselect=tests/run/test_checkpoint.py::test_images_on_disk_go_on_in_mid_epoch",
    ],
    "attach": [
        "tests/restated/test_restated_attached.py",
        "tests/contract/test_frozen.py",
        "tests/engine/test_overlap.py",
        "tests/attach",
        "--ignore=tests/attach/test_attach_launched.py",
        "--ignore=tests/attach/test_migrating.py",
        f"--deselect={_APART}::test_the_package_imports_nothing_and_has_the_names",
        f"--deselect={_APART}::test_compiled_models_train_the_same",
    ],
}


def files_of(target: str) -> list[Path]:
    """The files of a folder, or the file itself."""
    path = PACKAGE / target
    return [path] if path.is_file() else sorted(path.rglob("*.py"))
