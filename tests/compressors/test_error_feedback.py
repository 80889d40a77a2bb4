"""Error feedback: nothing is lost for good (oracle O9), whatever the codec."""

from __future__ import annotations

import torch

from hpc_localsgd.compressors import FP16, Compressor, Sign, TopK, compress


def test_sum_of_sent_is_sum_of_given_less_the_last_memory(carrying: Compressor) -> None:
    """O9: 200 steps of 3 workers, d = 50, float64."""
    sizes, generator = (30, 1, 19), torch.Generator().manual_seed(0)
    given, received = torch.zeros(3, 50).double(), torch.zeros(3, 50).double()
    memory, forgotten = None, torch.zeros(3, 50).double()
    for _ in range(200):
        x = torch.randn(3, 50, generator=generator, dtype=torch.float64)
        if memory is not None:
            forgotten += (1 - carrying.decay) * memory
        sent, memory = compress(carrying, x, memory, sizes)
        given += x
        received += carrying.decode(sent, sizes, x.dtype)
    assert memory is not None and memory.abs().max() > 1e-6  # something was lost, and kept
    torch.testing.assert_close(received, given - forgotten - memory, rtol=0, atol=1e-12)


def test_the_mean_of_workers_telescopes_too() -> None:
    """mean_k(s_k sign_k), not mean_k(s_k) mean_k(sign_k): only the former matches the memories."""
    x = torch.tensor([[1.0, -3.0, 2.0], [4.0, 4.0, -10.0]])
    sent, memory = compress(Sign(), x, None, [3])
    update = Sign().decode(sent, [3], x.dtype).mean(dim=0)
    assert memory is not None
    torch.testing.assert_close(update, torch.tensor([4.0, 2.0, -2.0]))
    torch.testing.assert_close(update, x.mean(dim=0) - memory.mean(dim=0))


def test_without_error_feedback_there_is_no_memory() -> None:
    x = torch.tensor([[1.0, -2.0]])
    codec = Sign(error_feedback=False)
    sent, memory = compress(codec, x, torch.ones(1, 2), [2])
    assert memory is None and torch.equal(sent, codec.encode(x, [2]))


def test_biased_codecs_carry_their_error_by_default() -> None:
    assert Sign().error_feedback and TopK().error_feedback and not FP16().error_feedback


def _descend(codec: Compressor, steps: int = 2000, lr: float = 0.01) -> torch.Tensor:
    """Where compressed subgradient steps on 1/2 |x1 + x2| + |x1 - x2| end, from (1, 1)."""
    x, memory = torch.ones(1, 2, dtype=torch.float64), None
    along, across = torch.tensor([1.0, 1.0]).double(), torch.tensor([1.0, -1.0]).double()
    for _ in range(steps):
        plus = 1.0 if x.sum() >= 0 else -1.0
        minus = 1.0 if x[0, 0] >= x[0, 1] else -1.0
        gradient = (0.5 * plus * along + minus * across)[None]
        sent, memory = compress(codec, lr * gradient, memory, [2])
        x = x - codec.decode(sent, [2], x.dtype)
    return x[0]


def test_sign_sgd_is_stuck_where_error_feedback_arrives() -> None:
    """O9(b): signSGD cannot change x1 + x2 = 2; EF-sign reaches |x| < 0.03 in 2000 steps."""
    stuck = _descend(Sign(error_feedback=False))
    assert abs(stuck.sum().item() - 2.0) < 1e-9
    assert _descend(Sign()).norm() < 0.03
