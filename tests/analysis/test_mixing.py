"""The figure of gossip: the graph as it is, and what mixes left beside what they can leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_localsgd.analysis.draw.mixing import draw_mixing, left_over
from hpc_localsgd.analysis.draw.topology import draw_topology
from hpc_localsgd.analysis.figure_data import kept
from hpc_localsgd.analysis.recorded_objects import mixing_of
from hpc_localsgd.topology import (
    Topology,
    base_graph,
    complete,
    contraction,
    custom,
    equi_dynamic,
    equi_static,
    exponential,
    hypercube,
    one_peer_exponential,
    random_pairs,
    ring,
    torus,
)
from hpc_localsgd.trajectory import Header, Trajectory, Writer

GOSSIP = "algorithm: {{class_path: hpc_localsgd.algorithms.gossip.Gossip, init_args: {args}}}\n"
RING = "{class_path: hpc_localsgd.topology.static.ring, init_args: {}}"


def recorded(folder: Path, args: str, K: int = 4) -> Trajectory:
    """Four exchanges; the first three have a spread of after, of before, and of both moments."""
    said = ("digits", "Gossip", "every(8)", "simulated(4)")
    header = Header(GOSSIP.format(args=args), *said, K=K, P=9, seed=0, steps=32)
    with Writer(folder, header) as writer:
        for s in range(4):
            row = {"compute_s": 0.1, "wait_s": 0.1, "transfer_s": 0.1, "payload_bytes": 9}
            writer.round(step_begin=8 * s, step_end=8 * s + 8, lr=0.1, **row)
            if s != 1:
                writer.series("spread", 8 * s + 8, 1.0 + s)
            if s != 0:
                writer.series("before_exchange/spread", 8 * s + 8, 10.0)
    return Trajectory(folder)


def test_what_a_mix_left_is_of_the_exchanges_that_were_measured_twice(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", f"{{topology: {RING}, order: atc}}")
    found = left_over(run)
    assert found is not None
    np.testing.assert_array_equal(found[0], [24, 32])
    np.testing.assert_allclose(found[1], [0.3, 0.4])
    figure = draw_mixing(run, ring())
    assert figure is not None
    dots, expected, most = kept(figure.axes[1])
    np.testing.assert_allclose(dots.y, [0.3, 0.4])
    assert (expected.y[0], most.y[0]) == contraction(ring().matrix(4))


def test_the_bound_is_that_of_the_mix_that_can_leave_most(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", f"{{topology: {RING}, order: atc}}", K=8)
    figure = draw_mixing(run, one_peer_exponential())
    assert figure is not None
    bounds = [contraction(one_peer_exponential().matrix(8, k))[1] for k in range(3)]
    assert kept(figure.axes[1])[2].y[0] == pytest.approx(max(bounds)) != min(bounds)


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (f"{{topology: {RING}, order: atc}}", "ring()"),
        (f"{{topology: {RING}, order: awc}}", "None"),
        ("{topology: {class_path: os.system, init_args: {command: x}}, order: atc}", "None"),
        ("{topology: {class_path: hpc_localsgd.topology.gap}, order: atc}", "None"),
        ("{topology: {class_path: hpc_localsgd.ring, init_args: {a: 1}}, order: atc}", "None"),
        (
            "{topology: {class_path: hpc_localsgd.topology.derived.custom, "
            "init_args: {of: /etc/passwd}}, order: atc}",
            "None",
        ),
        ("{topology: ring, order: atc}", "None"),
        (
            "{topology: {class_path: hpc_localsgd.topology.static.hypercube}, order: atc}",
            "hypercube()",
        ),
        ("[1, 2]", "None"),
    ],
)
def test_only_gossip_of_the_package_has_a_picture(tmp_path: Path, args: str, found: str) -> None:
    assert repr(mixing_of(recorded(tmp_path / "run", args))) == found


def test_workers_that_a_topology_does_not_take_have_no_picture(tmp_path: Path) -> None:
    cube = "{topology: {class_path: hpc_localsgd.topology.static.hypercube}, order: atc}"
    assert mixing_of(recorded(tmp_path / "run", cube, K=6)) is None


def test_the_matrix_that_a_record_names_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "W.npy", np.full((4, 4), 0.25))
    path = "hpc_localsgd.topology.derived.custom"
    args = f"{{class_path: {path}, init_args: {{W: {tmp_path / 'W.npy'}}}}}"
    opened: list[object] = []
    monkeypatch.setattr(custom, "__post_init__", lambda made: opened.append(made.W))
    assert mixing_of(recorded(tmp_path / "run", f"{{topology: {args}, order: atc}}")) is None
    assert not opened


def test_a_number_of_workers_that_nobody_has_is_not_drawn(tmp_path: Path) -> None:
    args = f"{{topology: {RING}, order: atc}}"
    assert mixing_of(recorded(tmp_path / "run", args, K=1025)) is None


@pytest.mark.parametrize("topology", [ring(), exponential(), one_peer_exponential(), torus()])
def test_a_mix_leaves_between_nothing_and_the_bound(topology: Topology) -> None:
    W, random = topology.matrix(16, 0), np.random.default_rng(0)
    expected, most = contraction(W)
    x = random.standard_normal((16, 4000))
    left = np.square(W @ (x - x.mean(0))).sum(0) / np.square(x - x.mean(0)).sum(0)
    assert left.max() <= most + 1e-12
    # The mean of a ratio of quadratic forms of a Gaussian: exact, the norm being independent.
    assert left.mean() == pytest.approx(expected, abs=4 * left.std() / 4000**0.5)
    vector = np.linalg.svd(W - 1 / 16)[2][0]
    assert np.square(W @ vector).sum() == pytest.approx(most), "the bound is reached"


def test_an_exact_average_leaves_nothing() -> None:
    assert contraction(complete().matrix(8)) == pytest.approx((0.0, 0.0), abs=1e-15)
    assert contraction(np.ones((1, 1))) == (0.0, 0.0)


def edges(topology: Topology, K: int) -> dict[str, set[tuple[int, int]]]:
    """What was drawn: (sends, receives) of each mix."""
    from matplotlib.figure import Figure

    axes: Any = Figure().add_subplot()
    draw_topology(axes, topology, K)
    return {d.line: set(zip(d.x.tolist(), d.y.tolist(), strict=True)) for d in kept(axes)}


def test_the_graph_has_the_edges_of_the_topology() -> None:
    around = {(i, (i + 1) % 6) for i in range(6)}
    assert edges(ring(), 6) == {"mix 0": around | {(b, a) for a, b in around}}
    assert len(edges(hypercube(), 8)["mix 0"]) == 8 * 3
    changing = edges(one_peer_exponential(), 8)
    assert [len(changing[f"mix {k}"]) for k in range(3)] == [8, 8, 8]
    assert len(edges(random_pairs(), 8)) == 4
    receives, sends = np.nonzero(exponential().matrix(8) * ~np.eye(8, dtype=bool))
    assert edges(exponential(), 8)["mix 0"] == set(
        zip(sends.tolist(), receives.tolist(), strict=True)
    )
    changing = edges(base_graph(), 5)  # 4 + 1: they meet in the third of five mixes
    assert [len(changing[f"mix {k}"]) for k in range(4)] == [4, 4, 2, 4]
    assert changing["mix 2"] == {(0, 4), (4, 0)}
    drawn = edges(equi_static(shifts=2), 8)["mix 0"]
    assert len(drawn) == 16 and len({(to - of) % 8 for of, to in drawn}) == 2
    assert all(len({(to - of) % 8 for of, to in e}) == 1 for e in edges(equi_dynamic(), 8).values())
    assert edges(ring(), 65) == {}, "too many to tell apart"
