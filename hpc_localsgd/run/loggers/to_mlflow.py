"""MLflow, in the files RUN/mlruns where MLFLOW_TRACKING_URI says nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

EXPERIMENT = "hpc_localsgd"
STATUS = {"complete": "FINISHED", "stopped": "KILLED", "diverged": "FAILED"}


class MLflow:
    """A run of MLflow."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        """Log to this run."""
        self._client, self._run_id = client, run_id

    def log(self, t: int, values: dict[str, float]) -> None:
        """Log numbers at their step."""
        now_ms = int(1000 * time.time())
        metrics = [Metric(name, value, now_ms, t) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, status: str) -> None:
        """Log how the run ended."""
        self._client.set_terminated(self._run_id, STATUS.get(status, "FINISHED"))


def begin(out: Path, config: str) -> MLflow:
    """Begin a run, in an experiment of this package."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants to be asked
    uri = os.environ.get("MLFLOW_TRACKING_URI", (out / "mlruns").absolute().as_uri())
    client = MlflowClient(tracking_uri=uri)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    run = client.create_run(experiment, run_name=out.name)
    client.log_text(run.info.run_id, config, "config.yaml")
    return MLflow(client, run.info.run_id)
