"""The options of a run: what they are called, what they mean, and their defaults.

Nothing of torch is imported, so that the first page of help is there at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from hpc_localsgd.schedules.local_steps import Schedule, post_local
from hpc_localsgd.schedules.rates import Rate, cosine

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.gradients.base import GradientAt
    from hpc_localsgd.tasks.base import TaskSpec


CONFIG_HELP = "YAML file with any of the options"
OPTIMIZER_HELP = "Local optimiser, a class of torch.optim. Its learning rate is --rate."
OPTIMIZER: dict[str, Any] = {
    "class_path": "torch.optim.SGD",
    "init_args": {"momentum": 0.9, "weight_decay": 1e-4},
}


class _Made:
    """Factory of an object whose class is imported only when it is called.

    Attributes:
        named: The short name of the class, which is that of its file.
    """

    def __init__(self, path: str) -> None:
        self._module, _, self._name = path.rpartition(".")
        self.named = self._module.rpartition(".")[2]

    def __call__(self) -> Any:
        """Import the class and make an object of it."""
        return getattr(import_module(self._module), self._name)()


@dataclass
class Config:
    """A run of Local SGD or one of its family.

    Durations take any unit: 3000 (steps), "250 epochs", "2e6 samples", "50%" (of the run).

    Args:
        task: Model and data.
        algorithm: What is communicated, and what is done with it.
        gradient: Where the gradient is taken: at the worker's parameters or elsewhere (SAM, noise).
        schedule: Length in steps of the round that starts now.
        rate: Learning rate of a step.
        momentum_at_sync: The optimiser's state at the end of a round of local steps: kept by each
            worker, averaged (and sent), or reset.
        moments_every: Where it is averaged, rounds between two averages of a moment, by its name in
            torch, 1 for the others: {exp_avg: 3, exp_avg_sq: 6} is DES-LOC for Adam.
        batchnorm: BatchNorm's statistics: re-estimated on training batches before an
            evaluation, averaged at every exchange, or local.
        batchnorm_batches: Training batches used to re-estimate them, by all workers together.
        workers: K, model replicas, placed on the ranks: 8 on 3 are 3, 3 and 2. Default: one a rank.
        world: Where workers live: simulated (this process), horovod, mpi, torch (torch's own
            collectives). auto takes torch under torchrun and, under another launcher of several
            ranks, horovod, or mpi where Horovod is missing.
        fabric: For the simulated world, whose seconds of communication are modelled: 1GbE, 10GbE,
            100GbE, hdr200, nvlink; latency and rate ("50us,117MB/s"); or a file that
            benchmarks/collectives.py wrote. Behind any, what workers share: ",trunk=25GB/s/32" (32
            in a row behind each), ",core=10GB/s"; and ",allreduce=halving" in place of a ring.
        steps: Length of the run in optimiser steps (any unit but %). Give this or epochs.
        epochs: Length of the run in epochs. Default: 60 epochs.
        batch_per_worker: Samples per worker and step.
        sampling: Deal one permutation per epoch to the workers, or draw with replacement.
        partition: Whose the training samples are: iid, all of them every worker's, dealt anew in
            every epoch; or shards for the whole run, alike but for chance (disjoint) or with few
            classes each and of unequal sizes (dirichlet:ALPHA, the more so the smaller ALPHA).
        label_noise_from: When the label noise of the task (--task.label-noise) begins: a phase
            without it comes first, as in experiments that begin with a trained model.
        remainder: Samples left at the end of an epoch: carried into the next or dropped.
        seed: Seed of the initial parameters and of the order of the data.
        dtype: Type of the parameters.
        precision: Precision of convolutions and matrix products, by autocast: bf16 or fp16 (which
            scales the loss); the parameters stay in float32.
        accumulate: Micro-batches a worker's batch is cut into, to save memory.
        channels_last: Images in NHWC order, which tensor cores want.
        compile: torch.compile the model for training.
        replicas: Several workers of a process in one batched program (vmap) or one after another
            (loop). auto: by a rule on a CPU, by measuring the first batch on a GPU.
        device: auto takes a GPU if there is one for this rank.
        out: Folder for trajectory.h5, config.yaml, figures and checkpoints.
        resume: Continue from the last checkpoint in --out; auto does so if there is one and starts
            over if there is none.
        resume_from_mean: When the last checkpoint is of another number of workers, start from the
            mean of theirs, at the same share of the run.
        extend: With --resume and other --steps or --epochs, resume although the steps so far had
            other rates or rounds than a run of that length has. Without it that is refused.
        overwrite: Replace the run in --out, with its checkpoints, figures, report and measured
            curvature; files of your own stay.
        init_from: Begin with the parameters of another run of the same task and model: its folder
            for the model of its end, or RUN:STEP for a snapshot. All else is a new run.
        init_with: What of it: mean, the mean model for all workers; workers, each worker's own, of
            a snapshot (--snapshot-workers) or checkpoint of as many workers; optimizer, of a
            checkpoint, with the optimiser's state.
        evaluate_every: Cadence of test loss and accuracy of the mean model.
        evaluate_workers: Also evaluate every worker's own model.
        spread_every: Cadence of the spread, mean_k ||x_k - mean||^2: before an exchange that makes
            all workers equal, after one that leaves them different (gossip).
        deviations_every: Cadence, at the same moment, of what the workers' deviations from their
            mean say: eigenvalues of their covariance, loss at the workers against loss at the mean,
            curvature along the deviations. Takes no gradient; 0 for never.
        gradients_every: Cadence, at the same moment, of the effective learning rate, the part of
            the step orthogonal to the gradient and the gradient noise scale; 0 for never.
        uncertainty_every: Cadence, at the same moment, of the variance of the workers' predictions
            on the test samples, and of how well calibrated their average and the mean model are:
            negative log-likelihood, Brier score, reliability; 0 for never.
        probe_samples: Training samples of the fixed subset on which --deviations-every and
            --gradients-every measure.
        snapshot_every: Cadence of parameter snapshots; 0 for none.
        snapshot_workers: Snapshots also keep every worker's parameters.
        snapshot_dtype: Type of the stored snapshots.
        checkpoint_every: Cadence of checkpoints, in time ("10 minutes") or any other unit; at ends
            of rounds, and within a round that is longer. 0 for the end only.
        checkpoint_keep: How many checkpoints to keep.
        on_nan: When a worker's numbers are no longer finite: stop the run, or put the worker into
            quarantine: it is left out of the exchange and continues from the mean of the others.
        watchdog: Least time without a step until the job counts as hung and is ended (exit status
            86); the bound grows with the longest round of the plan, and a start may take three
            times as long. 0 for never.
        log_every: Time between two lines of the log ("30 seconds"), beside those at evaluations; 0
            for these only. A terminal shows one live line instead.
        log: Where else the curves go while the run trains, beside the record; a logger that fails
            ends nothing. wandb is offline unless WANDB_MODE says otherwise.
        log_format: Of these lines: text for people, key=value for grep.
        figures: Draw accuracy.png, spread.png and time.png at the end.
        save_model: Write the mean model as model.safetensors at the end.
        smoke: Only try the configuration out, in seconds: the same model, algorithm and shapes on
            synthetic data, with few workers, samples and steps. The run is <out>-smoke.
    """

    task: TaskSpec = field(default_factory=_Made("hpc_localsgd.tasks.digits.digits"))
    algorithm: Algorithm = field(
        default_factory=_Made("hpc_localsgd.algorithms.local_sgd.LocalSGD")
    )
    gradient: GradientAt = field(default_factory=_Made("hpc_localsgd.gradients.plain.plain"))
    schedule: Schedule = field(default_factory=lambda: post_local(switch="50%", every=16))
    rate: Rate = field(default_factory=lambda: cosine(lr=0.1, warmup="5%"))
    momentum_at_sync: Literal["keep", "average", "reset"] = "keep"
    moments_every: dict[str, int] = field(default_factory=dict)
    batchnorm: Literal["reestimate", "average", "local"] = "reestimate"
    batchnorm_batches: int = 100
    workers: int | None = None
    world: Literal["auto", "simulated", "horovod", "mpi", "torch"] = "auto"
    fabric: str = "10GbE"
    steps: int | str | None = None
    epochs: float | None = None
    batch_per_worker: int = 16
    sampling: Literal["permutation", "replacement"] = "permutation"
    partition: str = "iid"
    label_noise_from: int | str = 0
    remainder: Literal["carry", "drop"] = "carry"
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    accumulate: int = 1
    channels_last: bool = False
    compile: bool = False
    replicas: Literal["auto", "vmap", "loop"] = "auto"
    device: str = "auto"
    out: str = "runs/digits"
    resume: bool | Literal["auto"] = False
    resume_from_mean: bool = False
    extend: bool = False
    overwrite: bool = False
    init_from: str | None = None
    init_with: Literal["mean", "workers", "optimizer"] = "mean"
    evaluate_every: int | str = "2%"
    evaluate_workers: bool = False
    spread_every: int | str = "0.5%"
    deviations_every: int | str = 0
    gradients_every: int | str = 0
    uncertainty_every: int | str = 0
    probe_samples: int = 512
    snapshot_every: int | str = 0
    snapshot_workers: bool = False
    snapshot_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    checkpoint_every: int | str = "10 minutes"
    checkpoint_keep: int = 2
    on_nan: Literal["stop", "quarantine"] = "stop"
    watchdog: int | str = "10 minutes"
    log_every: int | str = "30 seconds"
    log: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    log_format: Literal["text", "key=value"] = "text"
    figures: bool = True
    save_model: bool = True
    smoke: bool = False
