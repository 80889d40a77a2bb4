"""Checks of the arguments of `attach`: what is wrong in the script is wrong on all ranks alike."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach.shards import is_sharded, uneven
from hpc_localsgd.compressors.base import MatrixCompression
from hpc_localsgd.engine.batchnorm import BatchNorm, Policy
from hpc_localsgd.engine.matrix_optimizer import looks_at_matrices
from hpc_localsgd.engine.non_finite import OnNan
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.local_steps import Schedule, qsr
from hpc_localsgd.types import ModelSize, Now
from hpc_localsgd.worlds.base import World

_WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")
_SPECTRAL = (SpectralNorm, _SpectralNorm)  # of torch.nn.utils, and of its parametrizations


def check_types(model: Any, optimizer: Any) -> None:
    """Check that model and optimizer are those of one process.

    Raises:
        ConfigurationError: They are in each other's place, or belong to another way of training in
            parallel, at the top or anywhere below it.
    """
    if isinstance(model, torch.optim.Optimizer) and isinstance(optimizer, nn.Module):
        raise ConfigurationError("the model comes first: write attach(model, optimizer, ...)")
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"attach was given a {type(model).__name__} for the model: write "
            "attach(model, optimizer, ...) with the torch.nn.Module that the optimizer trains"
        )
    _check_alone(model)
    if hasattr(optimizer, "skip_synchronize"):
        raise ConfigurationError(
            "the optimizer is a hvd.DistributedOptimizer, which averages gradients at every step: "
            "leave that line out and give attach the plain optimizer"
        )
    if any(kind.__name__ == "ZeroRedundancyOptimizer" for kind in type(optimizer).__mro__):
        raise ConfigurationError(
            "the optimizer is a ZeroRedundancyOptimizer, which sends parameters at every step by "
            "itself, so that no step would be local: give attach the plain optimizer, or shard "
            "the model by torch's fully_shard and give attach(..., mesh=)"
        )
    # Wrappers that inherit from Optimizer without initialising it have no hooks.
    whole = "_optimizer_step_pre_hooks" in getattr(optimizer, "__dict__", {})
    if not (isinstance(optimizer, torch.optim.Optimizer) and whole):
        raise ConfigurationError(
            f"{type(optimizer).__name__} is not a torch.optim.Optimizer, or wraps one: give attach "
            "the optimizer that was wrapped (of accelerate's, optimizer.optimizer)"
        )


def check_patience(patience_s: Any) -> None:
    """Check the time that a rank may wait for others.

    Raises:
        ConfigurationError: Not a number above 0.
    """
    number = isinstance(patience_s, int | float) and not isinstance(patience_s, bool)
    if not (number and patience_s > 0):
        raise ConfigurationError(
            f"patience_s is {patience_s!r}: give the seconds that a rank may wait for others that "
            "are busy, a number above 0 (3600 by default)"
        )


def check_whole(**numbers: Any) -> None:
    """Check that arguments are whole numbers of at least 1, or None.

    Raises:
        ConfigurationError: One is not; names it.
    """
    for name, given in numbers.items():
        whole = isinstance(given, Integral) and not isinstance(given, bool)
        if given is not None and not (whole and int(given) >= 1):
            raise ConfigurationError(
                f"{name} is {given!r}: give a whole number of at least 1, or leave it out"
            )


def _check_alone(model: nn.Module) -> None:
    """Refuse what exchanges gradients or shards by itself: also below torch.compile, or inside."""
    for path, module in model.named_modules():
        kinds = [kind.__name__ for kind in type(module).__mro__ if kind.__name__ in _WRAPPERS]
        where = f"model.{path} is" if path else "the model is"
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigurationError(
                f"{where} of torch.jit, whose parameters cannot be looked after: train the plain "
                "module (torch.compile makes it faster), and script what was trained"
            )
        if kinds:
            raise ConfigurationError(
                f"{where} a {kinds[0]}, which exchanges gradients at every step by itself, so that "
                "no step would be local: build and give attach the plain module (of a wrapped "
                "model, model.module; compile it after that), and call that in the loop; to shard "
                "it, use torch's fully_shard and attach(..., mesh=)"
            )


def check_sharded(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    algorithm: Algorithm,
    world: World | None,
    mesh: Any,
    broadcast_optimizer: bool,
) -> None:
    """Check that what torch shards comes with the mesh along which it is repeated.

    Args:
        model: The user's.
        optimizer: Of its parameters.
        algorithm: What is done at the end of a round.
        world: As given, instead of a mesh.
        mesh: As given.
        broadcast_optimizer: Whether all ranks are to begin with the optimiser state of rank 0.

    Raises:
        ConfigurationError: It does not, or something is asked for that needs whole matrices.
    """
    if world is not None and mesh is not None:
        raise ConfigurationError("give attach a world or a mesh, not both: the mesh is the world")
    sharded = next((name for name, p in model.named_parameters() if is_sharded(p)), None)
    if sharded is None:
        return
    if mesh is None:
        raise ConfigurationError(
            f"torch shards the parameter {sharded} (it is a DTensor): give attach the dimension of "
            'its mesh along which the model is repeated, attach(..., mesh=mesh["replicate"])'
        )
    if broadcast_optimizer:
        raise ConfigurationError(
            "broadcast_optimizer=True, and the optimizer's state is sharded: load the same "
            "checkpoint of it on all workers instead (torch.distributed.checkpoint)"
        )
    if algorithm.needs_whole_models:
        raise ConfigurationError(
            f"{algorithm!r} needs whole models, and torch shards {sharded}: use DiLoCo or another "
            "algorithm that does the same to every number"
        )
    codec = getattr(algorithm, "compressor", None)
    if isinstance(codec, MatrixCompression):
        raise ConfigurationError(
            f"{codec!r} needs whole matrices, and torch shards {sharded}: use a compressor that "
            "codes a shard by itself (int4, e3m0, top_k)"
        )
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if looks_at_matrices(type(optimizer)) and any(uneven(p) for p in held):
        raise ConfigurationError(
            f"{type(optimizer).__name__} needs whole matrices, which torch puts together only "
            "where their rows divide by the ranks of mesh['shard']: pad the others, or give them "
            "to AdamW"
        )
    hooks = [hook for m in model.modules() for hook in (m, *m._forward_pre_hooks.values())]
    if any(isinstance(hook, _SPECTRAL) for hook in hooks):
        raise ConfigurationError(
            "spectral_norm of a sharded model: its vectors are iterated for the mean weight, which "
            "needs whole matrices; leave it out, or keep such modules out of fully_shard"
        )


def check_sparse(
    algorithm: Algorithm,
    optimizer: torch.optim.Optimizer,
    world: World,
    parameters: Iterable[torch.Tensor],
) -> None:
    """Check that an optimiser of sparse gradients gets sparse gradients.

    Raises:
        ConfigurationError: The algorithm returns dense gradients.
    """
    if not isinstance(optimizer, torch.optim.SparseAdam):
        return
    model = ModelSize.of(p.shape for p in parameters)
    state = algorithm.init(torch.zeros(1, model.P), world, model)
    first = Now(0, 0, 1, 0, 1.0, 1.0, parallel=True)
    overlaps = algorithm.in_backward(state, world, first) is not None
    if algorithm.acts_on_gradient(state, world, 1) and not overlaps:
        raise ConfigurationError(
            f"SparseAdam takes sparse gradients only, and {algorithm!r} makes dense ones of them: "
            "use algorithm=LocalSGD(), or torch.optim.Adam with Embedding(sparse=False)"
        )


def check_one_kind(algorithm: Algorithm, parameters: Iterable[torch.Tensor]) -> None:
    """Check that an algorithm that looks at whole models gets them in one piece.

    Raises:
        ConfigurationError: The parameters are of several dtypes or devices, each exchanged by
            itself.
    """
    kinds = sorted({f"{p.dtype} on {p.device}" for p in parameters})
    if algorithm.needs_whole_models and len(kinds) > 1:
        raise ConfigurationError(
            f"{algorithm!r} needs whole models, and the parameters of this one are of several "
            f"kinds ({', '.join(kinds)}), which are exchanged one by one: give them one dtype and "
            "device (autocast computes in half precision), or use DiLoCo"
        )


def check_world(world: World) -> None:
    """Check that the world has one worker in each process, as a user's own loop has.

    Raises:
        ConfigurationError: It has more.
    """
    if world.R != 1:
        raise ConfigurationError(
            f"{world!r} has {world.R} workers in this process, and attach trains one "
            "model in each: leave out the number of workers"
        )


def check_schedule(schedule: Schedule, steps: int | None, epoch: float | None) -> None:
    """Check that a schedule can be followed here, with what attach was given.

    Raises:
        ConfigurationError: It cannot.
    """
    if schedule.observes and schedule.told == "loss":
        raise ConfigurationError(
            f"{schedule} follows the training loss, which attach is not told: use "
            "spread_triggered, which follows the workers' parameters"
        )
    in_steps(schedule, steps, epoch)


def batchnorm_of(given: Any) -> BatchNorm:
    """Make a policy for running statistics of what was given.

    Raises:
        ConfigurationError: There is no such policy.
    """
    made = given if isinstance(given, BatchNorm) else BatchNorm(given)
    if made.policy not in get_args(Policy):
        raise ConfigurationError(
            f"batchnorm={made.policy!r}: write one of {', '.join(map(repr, get_args(Policy)))}"
        )
    return made


def on_nan_of(given: Any) -> OnNan:
    """Check the choice for numbers that are not finite.

    Raises:
        ConfigurationError: There is no such choice.
    """
    if given not in get_args(OnNan):
        raise ConfigurationError(
            f"on_nan={given!r}: write one of {', '.join(map(repr, get_args(OnNan)))}"
        )
    chosen: OnNan = given
    return chosen


def without_warmup(schedule: Schedule) -> bool:
    """Return whether a schedule takes a small rate for a late one, not knowing of a warm-up.

    The trainer knows the warm-up of its learning rate; in a user's own loop it has to be detected.
    """
    return isinstance(schedule, qsr) and schedule.warmup is None and schedule.alpha > 0


def in_steps(schedule: Schedule, steps: int | None, steps_per_epoch: float | None) -> Schedule:
    """Return the schedule with its durations in steps.

    Raises:
        ConfigurationError: One is in a unit that attach has not been told, or none can be.
    """
    if without_warmup(schedule):
        return schedule  # as it is: `WarmUp` watches the rate
    try:
        return schedule.in_steps(Units(steps_per_epoch or float("nan"), 0, steps))
    except ConfigurationError as error:
        if steps is None and "%" in repr(schedule):
            raise ConfigurationError(f"{schedule} has a share of the run: give steps=") from error
        raise
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"{schedule} has a duration that is not in steps: write steps, or give attach "
            "steps_per_epoch="
        ) from error
