"""Options that are refused: what is said, and that nothing of them stays."""

from __future__ import annotations

import pytest
from typed import config, refusal

from hpc_localsgd.commands.assembly.cadences import checkpoint_cadence, probes
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--algorithm", "locl_sgd"], "unknown algorithm 'locl_sgd' - did you mean 'local_sgd'?"),
        (["--algorithm=locl_sgd"], "(allreduce"),
        (["--schedule=post_locl"], "unknown schedule 'post_locl' - did you mean 'post_local'?"),
        (["--task=mnist_of_today"], "unknown task 'mnist_of_today'"),
        (["--rate", "cosin"], "did you mean 'cosine'?"),
        (["--sede=3"], "sede"),
        (["--schedule.evry=3"], "evry"),
        (["--batch-per-worker=many"], "--batch-per-worker wants a whole number, got many"),
        (["--world=moon"], "world"),
        (["--optimizer.lr=0.5"], "the learning rate is set by --rate.lr 0.5"),
        (
            ["--optimizer=torch.optim.RMSprop", "--optimizer.lr=0.5"],
            "the learning rate is set by --rate.lr 0.5",
        ),
        (["--steps=5", "--epochs=2"], "--steps or --epochs, not both"),
        (["--rate.lr=0"], "rate.lr must be positive"),
        (["--schedule.every=0"], "post_local.every must be at least 1"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_is_wrong_is_named(argv: list[str], said: str) -> None:
    message = refusal(*argv)
    assert said in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--algoritm local_sgd", "no option --algoritm - did you mean --algorithm?"),
        ("--algoritm.average x", "did you mean --algorithm.average?"),
        ("--batch-per-workers=4", "did you mean --batch-per-worker?"),
        ("--schedule every --schedule.every 16", "schedule every has no option 'every': it has st"),
        ("--schedule.evry 3", "it has switch, every - did you mean --schedule.every?"),
        ("--algorithm gossip --algorithm.compressor sign", "algorithm gossip has no option 'comp"),
        ("--algorithm gossip --algorithm.topology.foo 3", "topology ring has no option 'foo'"),
        ("--schedule.steps 8", "it has switch, every - of schedule every it is one"),
        ("--optimizer AdamWW", "unknown optimizer 'AdamWW' - did you mean 'AdamW'? (ASGD"),
        ("--optimizer torch.optim.sgd_", "unknown optimizer 'sgd_' - did you mean 'SGD'?"),
        ("--optimizer AdamW --optimizer.momentum 0.1", "optimizer AdamW has no option 'momentum'"),
        ("--optimizer.momentum x", "--optimizer.momentum wants a number, got x"),
        ("--workers 3.5", "--workers wants a whole number, got 3.5"),
        ("--world moon", "--world wants auto, simulated, horovod, mpi or torch, got moon"),
        ("--resume maybe", "--resume wants true, false or auto, got maybe"),
        ("--overwrite maybe", "--overwrite wants true or false, got maybe"),
        ("--seed=1 maybe", "'maybe' is not the value of an option"),
        ("--out.folder x", "there is no --out.folder"),
    ],
)
def test_a_slip_is_answered_in_a_line_with_what_there_is(argv: str, said: str) -> None:
    message = refusal(*argv.split())
    assert said in message
    assert "\n" not in message and "class" not in message and "Namespace" not in message


@pytest.mark.parametrize(
    "name", ["evaluate", "spread", "deviations", "gradients", "uncertainty", "snapshot"]
)
def test_a_cadence_that_is_none_is_named(name: str) -> None:
    made = config(f"--{name}-every", "2 weeks")
    with pytest.raises(ConfigurationError, match=f"^--{name}-every '2 weeks' is not a duration"):
        probes(made, Units(10, 10, 100))


def test_a_cadence_of_checkpoints_may_be_a_time_and_says_so() -> None:
    made = config("--checkpoint-every", "10 minuts")
    with pytest.raises(ConfigurationError, match='^--checkpoint-every .* type "10 minutes", steps'):
        checkpoint_cadence(made, Units(10, 10, 100))


def test_options_do_not_depend_on_those_that_were_read_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One parser serves them all: defaults of a class that was named, and a wish to print, go."""
    before = parse([])
    parse(["--rate=constant", "--algorithm=diloco", "--optimizer=AdamW"])
    assert "wants a number" in refusal("--print_config", "--rate.lr=x")
    again = parse([])
    assert (again.config, again.text) == (before.config, before.text)
    assert capsys.readouterr().out == ""
