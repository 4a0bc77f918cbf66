"""Folder of a run: recipe, environment, events, checkpoints, results; one run at a time, every file whole.

Where several processes share a run, the first one writes; the others' calls of these functions write nothing.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wsolfast.data import atomic
from wsolfast.engine.run.distributed import is_first, on_first
from wsolfast.engine.run.environment import describe_environment, now
from wsolfast.engine.run.errors import InUseError, MissingError, UsageError
from wsolfast.recipe import Recipe, dump_recipe, parse_recipe

_OWNED = (
    "metrics.jsonl",
    "train.log",
    "nonfinite.json",
    "checkpoints",
    "eval",
    "report",
    "stages",
    "localized",
    "card.json",
)

_CLASSES = "classes.json"


class RunFolder:
    """Folder ``runs/<name>/``. :meth:`create` starts a run, the constructor opens one that is there.

    Args:
        path: the folder.

    Raises:
        MissingError: if ``path`` holds no run.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / "recipe.toml").is_file():
            raise MissingError(f"{self.path} is no run folder: it has no recipe.toml")
        self.recipe = parse_recipe((self.path / "recipe.toml").read_text(encoding="utf-8"), self.path.name)

    @classmethod
    def create(
        cls, path: str | Path, recipe: Recipe, *, exist_ok: bool = False, reads: Iterable[str | Path] = ()
    ) -> "RunFolder":
        """Start a run of ``recipe`` in the folder ``path``.

        A run that left nothing yet, because its data was not found for instance, is replaced without being asked for.

        Args:
            path: the folder, which is made.
            recipe: what is trained.
            exist_ok: start the run that is there over; its results are removed.
            reads: files and folders that the new run needs, besides those that its recipe names.

        Raises:
            UsageError: if there is a run already, a folder that is no run, or something in it that the new run needs.
        """
        path, needed = Path(path), [*map(str, reads), *_named_by(recipe)]
        on_first(lambda: cls._start(path, recipe, exist_ok, needed))
        return cls(path)

    @classmethod
    def _start(cls, path: Path, recipe: Recipe, exist_ok: bool, needed: Sequence[str]) -> None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            # A recipe alone may be a user's own.
            if not all((path / name).is_file() for name in ("recipe.toml", "env.json")):
                raise UsageError(f"{path} exists and is no run folder; choose another --name")
            if not exist_ok and any((path / name).exists() for name in _OWNED):
                raise UsageError(f"{path} exists; continue it with --resume {path}, or start it over with --exist-ok")
            for given in needed:
                if Path(given).expanduser().resolve().is_relative_to(path.resolve()):
                    raise UsageError(f"{given} is needed, and lies in the run that would be replaced: {path}")
        path.mkdir(parents=True, exist_ok=True)
        with _held(path, ".lock"):
            for name in (*_OWNED, _CLASSES):
                if (path / name).is_dir():
                    shutil.rmtree(path / name)
                else:
                    (path / name).unlink(missing_ok=True)
            write_text(path / "recipe.toml", dump_recipe(recipe))
            write_json(path / "env.json", describe_environment() | {"seed": recipe.seed})

    def stage_path(self, stage: str) -> Path:
        """Return the folder of a stage: the run folder itself if it is the only one."""
        return self.path if len(self.recipe.stage) == 1 else self.path / "stages" / stage

    def weights_path(self, stage: str) -> Path:
        """Return the file of the weights that the finished stage leaves."""
        return self.stage_path(stage) / "checkpoints" / "model.safetensors"

    def eval_path(self, split: str) -> Path:
        """Return the folder of the evaluation of ``split``."""
        return self.path / "eval" / split

    def keep_class_names(self, names: Sequence[str]) -> None:
        """Keep the classes' ``names``, for pictures of images that are in no data set."""
        write_json(self.path / _CLASSES, list(names), indent=None)

    def class_names(self) -> list[str]:
        """Return what :meth:`keep_class_names` kept; empty if nothing was."""
        file = self.path / _CLASSES
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []

    def shown_class_names(self) -> list[str]:
        """Return :meth:`class_names`, or names to show where none were kept.

        A run that was never trained here, a published checkpoint for instance, is shown with the names in the results
        of its evaluation, ``test`` before all others; empty if there are none either. Its classes are not matched by
        them: an evaluation decides nothing for the next one.
        """
        if names := self.class_names():
            return names
        tables = self.path.glob("eval/*/per_image.json")
        for table in sorted(tables, key=lambda table: (table.parent.name != "test", table)):
            with table.open(encoding="utf-8") as stream:
                head = stream.readline()
            # The rows begin behind the first line; of many images, they are megabytes.
            with contextlib.suppress(ValueError):
                return json.loads(head.rstrip() + "]}").get("class_names", [])
        return []

    def replace_recipe(self, recipe: Recipe) -> None:
        """Keep ``recipe`` as the run's own, for instance when its data moved."""
        self.recipe = recipe
        write_text(self.path / "recipe.toml", dump_recipe(recipe))

    def update_environment(self, **values: object) -> None:
        """Add ``values`` to ``env.json``."""
        write_json(self.path / "env.json", self._environment() | values)

    def add_seconds(self, seconds: float) -> None:
        """Count ``seconds`` spent on training, over all the times that the run was continued."""
        self.update_environment(seconds=round(self._environment().get("seconds", 0.0) + seconds, 2))

    @property
    def replaceable(self) -> bool:
        """Whether the command that made this run makes it anew every time, as the demo does."""
        return bool(self._environment().get("replaceable"))

    def _environment(self) -> dict[str, Any]:
        file = self.path / "env.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def event(self, **values: object) -> None:
        """Append ``values`` as one line to ``metrics.jsonl``."""
        self._append("metrics.jsonl", json.dumps(values, allow_nan=False))

    def log(self, text: str) -> None:
        """Append ``text`` as one line to ``train.log``."""
        self._append("train.log", f"{now()} {text}")

    def _append(self, name: str, line: str) -> None:
        if is_first():
            with (self.path / name).open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    def lock(self, part: str | None = None) -> contextlib.AbstractContextManager:
        """Hold the folder for this process; the system releases it when the process dies, however it dies.

        Args:
            part: hold this part of the work only, beside processes that hold others.

        Returns:
            Context manager; leaving it releases the folder.

        Raises:
            InUseError: if another process holds it.
        """
        return locked(self.path, part)


def _named_by(recipe: Recipe) -> list[str]:
    """Files and folders that a recipe reads."""
    named = [recipe.data.root, recipe.evaluate.classifier, *(stage.backbone.weights for stage in recipe.stage)]
    return [name for name in named if name is not None and Path(name).expanduser().exists()]


@contextlib.contextmanager
def locked(path: Path, part: str | None = None) -> Iterator[None]:
    """Hold a folder for this process, or for those that share its run; see :meth:`RunFolder.lock`."""
    with contextlib.ExitStack() as held:
        on_first(lambda: held.enter_context(_held(path, ".lock", shared=part is not None)))
        if part is not None:
            on_first(lambda: held.enter_context(_held(path, f".lock-{part}")))
        yield


@contextlib.contextmanager
def _held(path: Path, name: str, *, shared: bool = False) -> Iterator[None]:
    with (path / name).open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            raise InUseError(
                f"{path} is in use by another wsolfast process ({stream.read().strip() or 'unknown'}); "
                "wait for it or choose another --name"
            ) from None
        # For that message alone: the lock itself is the system's, and ends with the process that holds it.
        stream.truncate(0)
        stream.write(f"{os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield


def write_bytes(path: Path, write: Callable[..., object]) -> None:
    """Call ``write(stream)`` and put the file at ``path`` in one step: readers see the old one or the whole new one."""
    if is_first():
        atomic.write_bytes(path, write)


def write_text(path: Path, text: str) -> None:
    """Write text as :func:`write_bytes` does, in UTF-8."""
    write_bytes(path, lambda stream: stream.write(text.encode("utf-8")))


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write JSON as :func:`write_bytes` does; NaN is refused."""
    write_text(path, to_json(value, indent=indent))


def to_json(value: object, *, indent: int | None = 2) -> str:
    """Return JSON as :func:`write_json` writes it."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False) + "\n"
