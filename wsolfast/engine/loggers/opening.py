"""The loggers that a recipe names, opened for as long as a run is at work."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from wsolfast.engine.loggers.logger import Logger
from wsolfast.engine.run.distributed import is_first
from wsolfast.engine.run.errors import BackendError
from wsolfast.engine.run.observers import Observer, describe_failure
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder

# Word of a recipe -> module and class here. Words are also the names of packages, and of the extras that bring them.
_LOGGERS = {
    "tensorboard": ("tensorboard", "TensorBoard"),
    "wandb": ("wandb", "WandB"),
    "mlflow": ("mlflow", "MLflow"),
    "csv": ("csv_files", "CSVFiles"),
}


def check_loggers(names: Sequence[str] | None) -> None:
    """Look whether the packages of the loggers are installed.

    Args:
        names: ``runtime.loggers``.

    Raises:
        BackendError: that names the first one that is not, and how to install it.
    """
    for name in names or ():
        spec = importlib.util.find_spec(name)
        # A folder of that name in the current one, as W&B makes it, is no package.
        if spec is None or spec.origin is None:
            raise BackendError(f"runtime.loggers: {name} is not installed: pip install 'wsolfast[{name}]'")


@contextmanager
def observed(
    run: RunFolder, names: Sequence[str] | None, observers: Sequence[Observer], progress: Progress
) -> Iterator[None]:
    """Tell loggers and observers of everything that happens in a run while entered.

    Those that fail are left out, which is logged once; the run goes on.

    Args:
        run: the run.
        names: ``runtime.loggers``.
        observers: further ones.
        progress: is given a line about each one that fails.
    """

    def log(text: str) -> None:
        run.log(text)
        progress.log(text)

    run.observers.log = log
    opened: list[Logger] = []
    for name in (names or ()) if is_first() else ():
        module, kind = _LOGGERS[name]
        try:
            opened.append(getattr(importlib.import_module(f"wsolfast.engine.loggers.{module}"), kind)(run))
        except Exception as error:
            log(describe_failure(kind, error))
    for one in (*opened, *observers):
        run.observers.add(one)
    failed = True
    try:
        yield
        failed = False
    finally:
        _tell_loggers(run, lambda logger: logger.close(failed=failed))
        for one in (*opened, *observers):
            run.observers.remove(one)


def begin_stage(run: RunFolder, stage: str, step: int) -> None:
    """Tell the loggers of a run that a stage begins, or goes on after its first ``step`` steps."""
    _tell_loggers(run, lambda logger: logger.begin(stage, step))


def _tell_loggers(run: RunFolder, act: Callable[[Logger], object]) -> None:
    run.observers.tell(lambda one: act(one) if isinstance(one, Logger) else None)
