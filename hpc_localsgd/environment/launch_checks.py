"""The doctor's judgement of a whole launch: pure functions from all ranks' facts to findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from hpc_localsgd.engine.finding import OK, PROBLEM, WARNING, Finding
from hpc_localsgd.environment import allocation
from hpc_localsgd.environment.facts import Facts

Ranks = Sequence[Facts]


def ranks(everyone: Ranks) -> Finding:
    """Compare the ranks the launcher was asked for with those that found each other."""
    launch, met = everyone[0].launch, everyone[0].started
    asked, started = launch.size, met if met is not None else 1
    by = f"by {launch.launcher}" if launch.launcher != "none" else "by no launcher"
    if asked is None or asked == started:
        return Finding(OK, "ranks", f"{started} started {by}")
    said = f"{asked} asked ({launch.source}={asked}), {started} started {by}"
    if any(facts.network and facts.network.level == PROBLEM for facts in everyone):
        text = f"{asked} asked ({launch.source}={asked}), not connected"
        return Finding(WARNING, "ranks", text, "repair the network first")
    if started == 1:
        cure = f"{_cure(launch.launcher)}{launch.if_left_over if launch.launched else ''}"
        return Finding(PROBLEM, "ranks", f"{said}: each process is alone", cure)
    return Finding(PROBLEM, "ranks", said, "start again; see which rank failed above")


def _cure(launcher: str) -> str:
    """Return the command to type when every process of a launch believes to be the only one."""
    return {
        "torchrun": "see what PyTorch says above, and whether the hosts reach MASTER_ADDR",
        "mpirun": "use the mpirun of the MPI that mpi4py loads: .venv/bin/mpirun, or the module's",
        "srun": "srun --mpi=pmix ... (srun --mpi=list shows what this cluster has)",
        "sbatch": "start Python by srun: srun --mpi=pmix python -m hpc_localsgd doctor",
        "horovodrun --gloo": "build Horovod with Gloo: python -m hpc_localsgd.environment.horovod",
    }.get(launcher, "use the launcher of the MPI that mpi4py loads: mpirun, or srun --mpi=pmix")


def hosts(everyone: Ranks) -> Finding:
    """Show the hosts, whether each knows its own name, and which of the job's have no rank."""
    lost = sorted({facts.host for facts in everyone if not facts.host_resolves})
    if lost:
        text = f"{', '.join(lost)}: the name does not resolve (Gloo crashes without a message)"
        address = "127.0.0.1" if len({facts.host for facts in everyone}) == 1 else "ITS-ADDRESS"
        return Finding(PROBLEM, "hosts", text, f"add a line to /etc/hosts: {address} {lost[0]}")
    here = [facts.host for facts in everyone]
    given = next((facts.allocated for facts in everyone if facts.allocated), ())
    alone = not everyone[0].launch.launched
    if not alone and (idle := allocation.idle_hosts(given, here)):
        text = f"{allocation.said(here)}; {allocation.warning(idle)}"
        return Finding(WARNING, "hosts", text, allocation.CURE)
    return Finding(OK, "hosts", allocation.said(here))


def versions(everyone: Ranks) -> Finding:
    """Judge whether all ranks run the same software."""
    for name in ("package", "python", "torch", "horovod", "mpi_library", "h5py"):
        seen = {str(getattr(facts, name)) for facts in everyone}
        if len(seen) > 1:
            text = f"{name} differs between ranks: {', '.join(sorted(seen))}"
            return Finding(PROBLEM, "versions", text, "start every rank from one environment")
    return Finding(OK, "versions", "the same on every rank")


def devices(everyone: Ranks) -> Finding:
    """Show the device of each rank, and judge whether two of them share one."""
    if not any(facts.cuda_devices for facts in everyone):
        return Finding(OK, "devices", "every rank on the CPU")
    where = [(facts.host, device_of(facts)) for facts in everyone]
    shown = ", ".join(
        f"{facts.rank}: {name}" for facts, (_, name) in zip(everyone, where, strict=True)
    )
    if len(set(where)) < len(where) and not _one_gpu_each(everyone):
        fix = "fewer ranks per host, or --gres=gpu:N with one GPU for each rank"
        return Finding(WARNING, "devices", f"{shown}: some share a device", fix)
    return Finding(OK, "devices", shown)


def device_of(facts: Facts) -> str:
    """Return the device of a rank: the GPUs of a host are assigned by local rank."""
    if not facts.cuda_devices:
        return "cpu"
    return f"cuda:{(facts.launch.local_rank or 0) % facts.cuda_devices}"


def _one_gpu_each(everyone: Ranks) -> bool:
    # With --gpus-per-task=1 each rank sees one GPU, another one each, and calls it cuda:0.
    visible = [facts.environ.get("CUDA_VISIBLE_DEVICES") for facts in everyone]
    pairs = [(facts.host, shown) for facts, shown in zip(everyone, visible, strict=True)]
    return None not in visible and len(set(pairs)) == len(pairs)


def oversubscription(everyone: Ranks) -> Finding:
    """Judge whether a host has a core for every thread of its ranks."""
    per_host = Counter(facts.host for facts in everyone)
    host, number = per_host.most_common(1)[0]
    there = [facts for facts in everyone if facts.host == host]
    cores = len({cpu for facts in there for cpu in facts.cpus}) or max(f.cores for f in there)
    threads = max(_threads(facts) for facts in there)
    parts = ((number, "rank"), (threads, "thread"), (cores, "core"))
    text = "{} x {} on {}".format(*(f"{n} {noun}{'s' * (n != 1)}" for n, noun in parts))
    if number == 1 or number * threads <= cores:
        return Finding(OK, "cores", text)
    if number <= cores:
        return Finding(WARNING, "cores", text, f"export OMP_NUM_THREADS={cores // number}")
    if everyone[0].environ.get("OMPI_MCA_mpi_yield_when_idle") == "1" and threads == 1:
        return Finding(OK, "cores", f"{text}; waiting ranks yield")
    fix = "export OMP_NUM_THREADS=1 OMPI_MCA_mpi_yield_when_idle=1; mpirun --bind-to none ..."
    return Finding(WARNING, "cores", f"{text}: waiting ranks take time from working ones", fix)


def _threads(facts: Facts) -> int:
    # Without the variable torch takes every core, in every rank.
    text = facts.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) > 0 else facts.cores


def cycle_time(everyone: Ranks) -> Finding:
    """Judge how often Horovod's own thread wakes up between two syncs."""
    first = everyone[0]
    if first.horovod_rests:
        return Finding(OK, "cycle time", "Horovod rests between exchanges")
    given = first.environ.get("HOROVOD_CYCLE_TIME")
    if given or first.horovod is None:
        return Finding(OK, "cycle time", f"{given} ms" if given else "Horovod is not installed")
    if len(everyone) == 1 or first.launch.launcher == "horovodrun --gloo":
        return Finding(OK, "cycle time", "Horovod's own, 1 ms")
    text = "Horovod's own, 1 ms: under MPI its thread takes time from the local steps"
    fix = (
        "build the Horovod that rests: python -m hpc_localsgd.environment.horovod --force; or "
        "export HOROVOD_CYCLE_TIME=10 for rounds of many steps"
    )
    return Finding(WARNING, "cycle time", text, fix)


ON_ALL: tuple[Callable[[Ranks], Finding], ...] = (
    ranks,
    hosts,
    versions,
    devices,
    oversubscription,
    cycle_time,
)
