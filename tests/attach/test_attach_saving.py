"""Saving works after attach, in mid-round and after finish as it did before attach."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from loops import attached, everyone_equal, net, parameters, steps
from rank_threads import ThreadWorld, on_ranks
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from hpc_localsgd import DiLoCo, LocalSGD, every
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach import Sync
from hpc_localsgd.attach.storage import FlatGroup
from hpc_localsgd.compressors import Int8, Sign
from hpc_localsgd.errors import ConfigurationError

WITH_GAPS = (nn.PReLU, lambda: nn.Linear(3, 3), lambda: nn.LayerNorm(3), lambda: nn.Linear(3, 5))


def with_gaps() -> nn.Sequential:
    """Lengths that are no multiples of 16 bytes, so that gaps follow them."""
    torch.manual_seed(0)
    return nn.Sequential(*(make() for make in WITH_GAPS))


def complete(x: torch.Tensor) -> bool:
    """What safetensors' save_model asks of a tensor: it is its whole storage."""
    storage = x.untyped_storage()
    return x.data_ptr() == storage.data_ptr() and x.nbytes == storage.nbytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_parameter_is_its_whole_storage_and_begins_where_16_bytes_do(
    dtype: torch.dtype,
) -> None:
    """torch.compile's kernels load 16 bytes at a time from the beginning of a storage."""
    model, _, sync = attached(with_gaps().to(dtype))
    for when in ("attached", "finished"):
        for name, p in model.named_parameters():
            assert complete(p), (when, name)
            assert p.data_ptr() % 16 == 0 and p.storage_offset() == 0, (when, name)
        sync.finish()


def trained_a_little(sync_after: Callable[[Sync], None]) -> nn.Module:
    model, optimizer, sync = attached(with_gaps(), schedule=every(4))
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        sync.step()
    sync_after(sync)
    return model


@pytest.mark.parametrize("when", [lambda sync: None, lambda sync: sync.finish()])
def test_saving_as_before(when: Callable[[Sync], None], tmp_path: Path) -> None:
    model = trained_a_little(when)
    values = parameters(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(parameters(twin), values)
        assert not any(p._post_accumulate_grad_hooks for p in twin.parameters())
        twin[1].weight.data.zero_()
        assert torch.equal(parameters(model), values)  # memory of its own


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_attach_gives_is_not_copied(copied: Callable[[object], object]) -> None:
    """A trainer object that holds model, optimizer and sync."""
    with pytest.raises(TypeError, match=r"save sync.state_dict\(\), beside the model's"):
        copied(attached()[2])


@pytest.mark.parametrize("H", [1, 2])
def test_the_step_that_makes_an_optimisers_first_state_is_no_step(H: int) -> None:
    """`get_optimizer_state_dict` of a new optimiser steps it with gradients and rates of 0."""
    model, optimizer, sync = attached(net(), "adam", schedule=every(H))
    get_optimizer_state_dict(model, optimizer)
    assert optimizer.state
    with sync.averaged():
        pass
    steps(model, optimizer, sync, range(4))
    plain, theirs, _ = attached(net(), "adam", schedule=every(H))
    get_optimizer_state_dict(plain, theirs)
    steps(plain, theirs, None, range(4))
    assert torch.equal(parameters(model), parameters(plain)) and sync.t == 4


@pytest.mark.skipif(
    importlib.util.find_spec("safetensors") is None,
    reason="safetensors is not installed (pip install safetensors); what it asks of a storage is "
    "tested above",
)
@pytest.mark.parametrize("when", [lambda sync: None, lambda sync: sync.finish()])
def test_safetensors_saves_the_model(when: Callable[[Sync], None], tmp_path: Path) -> None:
    from safetensors.torch import load_model, save_model

    model, twin = trained_a_little(when), with_gaps()
    save_model(model, tmp_path / "x.safetensors")
    load_model(twin, tmp_path / "x.safetensors")
    assert torch.equal(parameters(twin), parameters(model))


@pytest.mark.parametrize(
    "algorithm",
    [LocalSGD(), LocalSGD(compressor=Sign()), LocalSGD(compressor=Int8()), DiLoCo()],
    ids=repr,
)
def test_gaps_change_no_number_and_are_not_sent(algorithm: Algorithm) -> None:
    """The same numbers in one parameter, which has no gaps, and cut into the parts of a model."""

    class Cut(nn.Module):
        def __init__(self, sizes: list[int]) -> None:
            super().__init__()
            self.parts = nn.ParameterList(
                nn.Parameter(part) for part in torch.linspace(-1, 1, 40).split(sizes)
            )

    def train(world: ThreadWorld, sizes: list[int]) -> tuple[torch.Tensor, int]:
        model = Cut(sizes)
        _, optimizer, sync = attached(model, world=world, algorithm=algorithm, schedule=every(2))
        for t in range(6):
            optimizer.zero_grad()
            x = torch.cat(list(model.parts))
            ((x - torch.arange(40.0).sin() * (world.rank + t + 1)) ** 2).sum().backward()
            optimizer.step()
            sync.step()
        return parameters(model), sync.ledger.payload_bytes

    whole, cut = (
        on_ranks(2, lambda w, sizes=sizes: train(w, sizes)) for sizes in ([20, 20], [1, 19, 3, 17])
    )
    if not getattr(algorithm, "compressor", None):  # codecs have a scale for each tensor
        assert torch.equal(cut[0][0], whole[0][0])
        assert cut[0][1] == whole[0][1] == 3 * 40 * 4
    everyone_equal([x for x, _ in cut])
    model, optimizer, sync = attached(with_gaps(), algorithm=algorithm)
    assert f"P={sum(p.numel() for p in model.parameters())}" in repr(sync)
    steps_of_gaps(sync, optimizer)


@pytest.mark.parametrize(("H", "lent"), [(1, 0), (2, 3)])
def test_no_copy_is_made_where_gradients_were_all_there_was_to_exchange(
    H: int, lent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, optimizer, sync = attached(with_gaps(), schedule=every(H))
    (group,), calls = sync._context.groups, []
    rows = type(group).rows

    def counted(self: FlatGroup) -> AbstractContextManager[torch.Tensor]:
        calls.append(self)
        return rows(self)

    monkeypatch.setattr(FlatGroup, "rows", counted)
    steps_of_gaps(sync, optimizer)
    assert len(calls) == lent


def steps_of_gaps(sync: Sync, optimizer: torch.optim.Optimizer) -> None:
    """Nothing is written into the gaps, whatever the exchange does."""
    for _ in range(6):
        sync.model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        sync.step()
    for group in sync._context.groups:
        assert group.flat.count_nonzero() == sum(p.count_nonzero() for p in group.parameters)


def test_a_state_of_which_a_part_was_not_loaded_is_refused() -> None:
    """As torch.distributed.checkpoint leaves it: what was not there yet is not filled in."""
    model, optimizer, sync = attached(algorithm=DiLoCo())
    steps(model, optimizer, sync, range(4))
    whole = copy.deepcopy(sync.state_dict())
    part = copy.deepcopy(whole)
    del part["states"][0]["outer"]["state"][0]["momentum_buffer"]
    sync.load_state_dict(whole)
    with pytest.raises(ConfigurationError, match="the state is incomplete"):
        sync.load_state_dict(part)


def test_a_state_is_not_taken_while_the_model_holds_the_mean() -> None:
    """What an algorithm remembers of this rank would not fit the parameters saved beside it."""
    _, _, sync = attached()
    with sync.averaged(), pytest.raises(RuntimeError, match=r"state_dict\(\) inside"):
        sync.state_dict()
    assert sync.state_dict()["place"]["t"] == 0


@pytest.mark.parametrize("end", [Sync.finish, Sync.detach])
def test_a_state_is_not_loaded_into_a_run_that_has_ended(end: Callable[[Sync], None]) -> None:
    """Its hooks are off: an algorithm would see gradients only after the optimiser's step."""
    model, optimizer, sync = attached(algorithm=DiLoCo())
    steps(model, optimizer, sync, range(2))
    state = copy.deepcopy(sync.state_dict())
    sync.load_state_dict(state)
    end(sync)
    with pytest.raises(RuntimeError, match=r"load_state_dict\(\) after the run has ended"):
        sync.load_state_dict(state)
