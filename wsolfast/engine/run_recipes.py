"""Recipes in a row: each trained and measured in a run folder of its own, from where it stands."""

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsolfast.engine.evaluation.eval_split import eval_name
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run.distributed import from_first, is_first, on_first, world_size
from wsolfast.engine.run.errors import Interrupted, UsageError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder, write_text
from wsolfast.engine.training.train import change_runtime, recipe_hash, train
from wsolfast.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """A recipe, the folder of its run, and the variant that is measured there."""

    path: Path
    recipe: Recipe
    variant: str = ""

    @property
    def name(self) -> str:
        """The recipe's name, and the variant's."""
        return f"{self.recipe.name} ({self.variant})" if self.variant else self.recipe.name

    def measured(self) -> Recipe:
        """Return the recipe that the evaluation follows."""
        return replace(self.recipe, evaluate=replace(self.recipe.evaluate, variant=self.variant))

    def state(self) -> str:
        """Return ``"finished"``, ``"started"`` or ``"to do"``."""
        if not (self.path / "recipe.toml").is_file():
            return "to do"
        return "started" if _kept(self) is None else "finished"


@dataclass(frozen=True)
class Outcome:
    """Results of a job's evaluation, or the reason why there are none."""

    job: Job
    results: EvalResults | None
    failure: str | None = None


def run_recipes(
    jobs: Sequence[Job], progress: Progress, *, again: bool = False, keep_going: bool = False, gaussian: bool = False
) -> Iterator[Outcome]:
    """Train and evaluate every job: finished ones give the results that they have, started ones continue.

    Several processes (see :func:`wsolfast.engine.run.distributed.processes`) share every job.

    Args:
        again: start every run over instead; runs that another command has made are refused.
        keep_going: a job that fails is an outcome with its reason, and the next one is started. Several processes stop
            all the same: where one of them failed, the others wait for it in the middle of the job.
        gaussian: measure the central Gaussian, too.

    Raises:
        Interrupted: a signal asked for a stop.
        UsageError: if ``again`` would replace a run that another command has made.
    """
    if again:
        on_first(lambda: _check_replaceable(jobs))
    progress = progress if is_first() else Progress(quiet=True)
    for number, job in enumerate(jobs, start=1):
        if len(jobs) > 1:
            progress.log(f"[{number}/{len(jobs)}] {job.path.name}{f', {job.variant}' * bool(job.variant)}")
        try:
            yield Outcome(job, _run(job, progress, again=again, gaussian=gaussian))
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted(f"stopped while measuring {job.path}") from None
        except Exception as error:
            if not keep_going or world_size() > 1:
                raise
            failure = _describe(error)
            progress.log(f"failed: {failure}")
            told = "failed: " + "".join(traceback.format_exception(error))
            if (job.path / "recipe.toml").is_file():
                RunFolder(job.path).log(told)
            else:
                # A run that could not start leaves no folder.
                write_text(job.path.with_name(f"{job.path.name}.log"), told)
            yield Outcome(job, None, failure)


def _run(job: Job, progress: Progress, *, again: bool, gaussian: bool) -> EvalResults:
    results = from_first(_kept(job) if is_first() and not again else None)
    if results is None:
        run = _open(job, again=again)
        # A network that is measured as it is needs no images to train on.
        if any(stage.epochs for stage in run.recipe.stage):
            train(run, progress)
        results = evaluate(run, job.measured(), gaussian=gaussian and not job.variant, progress=progress)
    return results


def _open(job: Job, *, again: bool) -> RunFolder:
    if from_first(again or not (job.path / "recipe.toml").is_file()):
        run = RunFolder.create(job.path, job.recipe, exist_ok=again)
        run.update_environment(replaceable=again)
        return run
    run = RunFolder(job.path)
    change_runtime(run, job.recipe)
    return run


def _check_replaceable(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.path.exists() and not ((job.path / "recipe.toml").is_file() and RunFolder(job.path).replaceable):
            raise UsageError(
                f"{job.path} was made by another command and is not replaced; choose another folder, or move it away"
            )


def _kept(job: Job) -> EvalResults | None:
    """Return the results of the job's last evaluation; None if there are none, or a stage was trained since."""
    if not (job.path / "recipe.toml").is_file():
        return None
    run = RunFolder(job.path)
    if recipe_hash(run.recipe) != recipe_hash(job.recipe):
        return None
    file = run.eval_path(eval_name(run, job.measured(), run.recipe.evaluate.split)) / "results.json"
    weights = [run.weights_path(stage.name) for stage in run.recipe.stage]
    trained = [weight.stat().st_mtime_ns for weight in weights if weight.is_file()]
    if not file.is_file() or max(trained, default=0) > file.stat().st_mtime_ns:
        return None
    return EvalResults.read(file)


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if hasattr(error, "exit_code") else f"{type(error).__name__}: {text}"
