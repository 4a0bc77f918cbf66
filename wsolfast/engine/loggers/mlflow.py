"""Runs of MLflow; its own variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...) say where they go."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from wsolfast.engine.loggers.logger import Logger, measured, numbers_of, recipe_table
from wsolfast.engine.run.observers import EpochEnd
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder

# The most that a server takes in one call, and of one value.
_PARAMETERS, _LENGTH = 100, 500


class MLflow(Logger):
    """Writer of metrics, pictures and the recipe's values.

    Args:
        run: the run.
    """

    wants_pictures = True

    def __init__(self, run: RunFolder):
        super().__init__(run)
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric: Any = Metric
        self._client: Any = MlflowClient()
        known = self.kept_id("mlflow")
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._id = known
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "wsolfast")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._id = self._client.create_run(experiment, run_name=run.path.name).info.run_id
        parameters = [Param(key, value[:_LENGTH]) for key, value in _flat(recipe_table(run))]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(self._id, params=parameters[start : start + _PARAMETERS])
        self.keep_id("mlflow", self._id)

    def on_event(self, event: Mapping[str, Any]) -> None:
        self._log({f"{event['stage']}/{name}": value for name, value in numbers_of(event).items()}, event["step"])

    def on_epoch(self, end: EpochEnd) -> None:
        for name, picture in end.pictures.items():
            key = re.sub(r"[^\w.-]", "_", f"{end.stage}-{name}")
            self._client.log_image(self._id, picture, key=key, step=end.step)

    def on_evaluation(self, results: EvalResults) -> None:
        self._log(measured(results), 0)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)


def _flat(table: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the value of everything in a table; what has a name goes by it."""
    if isinstance(table, dict):
        for key, value in table.items():
            yield from _flat(value, f"{where}.{key}" if where else key)
    elif isinstance(table, list) and table and all(isinstance(item, dict) and "name" in item for item in table):
        for item in table:
            yield from _flat(item, f"{where}.{item['name']}")
    else:
        yield where, str(table)
