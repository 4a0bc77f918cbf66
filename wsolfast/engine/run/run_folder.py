"""Folder of a run: recipe, environment, events, checkpoints, results; one run at a time, every file whole.

Where several processes share a run, the first one writes; the others' calls of these functions write nothing.
"""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wsolfast._nearest import nearest_three
from wsolfast._system import lock_file
from wsolfast.data import atomic
from wsolfast.engine.run.distributed import is_first, on_first
from wsolfast.engine.run.environment import describe_environment, now
from wsolfast.engine.run.errors import InUseError, MissingError, UsageError
from wsolfast.engine.run.observers import Observers
from wsolfast.engine.run.outputs import LIST, Outputs
from wsolfast.recipe import Recipe, dump_recipe, parse_recipe

# What was there before, until the new run has got going.
_ASIDE = ".replaced"
_OWNED = (
    "metrics.jsonl",
    "train.log",
    "nonfinite.json",
    "checkpoints",
    "eval",
    "report",
    "stages",
    "loggers",
    "localized",
    "card.json",
)
# Of these, folders that people may keep things of their own in, since they look at what is there.
_LOOKED_AT = ("report", "localized")
_CLASSES = "classes.json"
_MADE = (*_OWNED, "recipe.toml", "env.json", _CLASSES)


class RunFolder:
    """Folder ``runs/<name>/``. :meth:`create` starts a run, the constructor opens one that is there.

    A start may fail: :meth:`starting` then leaves things as they were, the run that was to be replaced included.

    Args:
        path: the folder.

    Raises:
        MissingError: if ``path`` holds no run.

    Attributes:
        observers: are told of every event.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        require_run(self.path)
        self.recipe = parse_recipe((self.path / "recipe.toml").read_text(encoding="utf-8"), self.path.name)
        self._made: list[Path] | None = None  # folders that this start has made; None of a run that is not new
        self._recipe_before: str | None = None
        self.observers = Observers(self.log)

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
            UsageError: if there is a run already, a folder that is no run, or something in it that the new run needs or
                that someone else put there.
        """
        path, needed = Path(path), [*map(str, reads), *_named_by(recipe)]
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            on_first(lambda: cls._start(path, recipe, exist_ok, needed))
        except InUseError:
            raise
        except BaseException:
            if is_first():
                _remove_made(path, made)
            raise
        run = cls(path)
        run._made = made if is_first() else None
        return run

    @classmethod
    def _start(cls, path: Path, recipe: Recipe, exist_ok: bool, needed: Sequence[str]) -> None:
        if (path / _ASIDE).is_dir():
            # A start was killed before it got going.
            with _held(path, ".lock"):
                _take_back(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            # A recipe alone may be a user's own.
            if not all((path / name).is_file() for name in ("recipe.toml", "env.json")):
                raise UsageError(f"{path} exists and is no run folder; choose another --name")
            if not exist_ok and any((path / name).exists() for name in _OWNED):
                raise UsageError(f"{path} exists; continue it with --resume {path}, or start it over with --exist-ok")
            for given in needed:
                if Path(given).expanduser().resolve().is_relative_to(path.resolve()):
                    raise UsageError(f"{given} is needed, and lies in the run that would be replaced: {path}")
            for kept in _of_others(path):
                raise UsageError(f"{kept} is not of this run, which would be replaced; move it away")
        path.mkdir(parents=True, exist_ok=True)
        with _held(path, ".lock"):
            for name in filter(lambda name: (path / name).exists(), _MADE):
                (path / _ASIDE).mkdir(exist_ok=True)
                (path / name).rename(path / _ASIDE / name)
            write_text(path / "recipe.toml", dump_recipe(recipe))
            write_json(path / "env.json", describe_environment() | {"seed": recipe.seed})

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Undo a start if an error comes before :meth:`keep`, which is called at the end at the latest."""
        try:
            yield
        except BaseException:
            self._undo()
            raise
        self.keep()

    def keep(self) -> None:
        """Call the start a success: what was replaced is gone from now on."""
        self._made = self._recipe_before = None
        if is_first():
            shutil.rmtree(self.path / _ASIDE, ignore_errors=True)

    def _undo(self) -> None:
        if not is_first():  # the first process of a run made what is there
            return
        # Another run's process may have gone on with it.
        with contextlib.suppress(InUseError), _held(self.path, ".lock"):
            self._take_back()

    def _take_back(self) -> None:
        if self._recipe_before is not None:
            write_text(self.path / "recipe.toml", self._recipe_before)
        if self._made is not None:
            _take_back(self.path)
            _remove_made(self.path, self._made)
        self._made = self._recipe_before = None

    def stage_path(self, stage: str) -> Path:
        """Return the folder of a stage: the run folder itself if it is the only one."""
        return self.path if len(self.recipe.stage) == 1 else self.path / "stages" / stage

    def weights_path(self, stage: str, *, best: bool = False) -> Path:
        """Return the file of the weights that the finished stage leaves: the last ones, or the best ones."""
        return self.stage_path(stage) / "checkpoints" / ("best.safetensors" if best else "model.safetensors")

    def raw_weights_path(self, stage: str) -> Path:
        """Return the file of the weights as the optimizer left them, where a stage leaves their average."""
        return self.stage_path(stage) / "checkpoints" / "raw.safetensors"

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

    def replace_recipe(self, recipe: Recipe, *, until_kept: bool = False) -> None:
        """Make ``recipe`` the run's own, for instance when its data moved.

        Args:
            recipe: replaces the run's own.
            until_kept: the old one comes back if :meth:`starting` ends in an error.
        """
        if until_kept:
            self._recipe_before = (self.path / "recipe.toml").read_text(encoding="utf-8")
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
        """True if the command that made this run makes it anew every time, as the demo does."""
        return bool(self._environment().get("replaceable"))

    def _environment(self) -> dict[str, Any]:
        file = self.path / "env.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def event(self, **values: object) -> None:
        """Append ``values`` as one line to ``metrics.jsonl``, and tell the observers of them."""
        self._append("metrics.jsonl", json.dumps(values, allow_nan=False))
        self.observers.tell(lambda observer: observer.on_event(values))

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


def require_run(path: Path) -> None:
    """Refuse a folder that holds no run.

    Raises:
        MissingError: that names the three nearest runs beside it, or says that there are none.
    """
    if (path / "recipe.toml").is_file():
        return
    if path.exists():
        raise MissingError(f"{path} is no run folder: it has no recipe.toml; name a folder that a training run wrote")
    if not path.parent.is_dir():
        raise MissingError(f"there is no run at {path}, and no folder {path.parent}")
    runs = [str(file.parent) for file in path.parent.glob("*/recipe.toml")]
    hint = f"; {nearest_three(str(path), runs)}" if runs else f", and no other in {path.parent}"
    raise MissingError(f"there is no run at {path}{hint}")


def _of_others(path: Path) -> Iterator[Path]:
    """Yield the files of a run that none of its commands wrote as they are now."""
    for file in sorted(file for name in _LOOKED_AT for file in (path / name).rglob("*") if file.is_file()):
        if file.name != LIST and not Outputs(file.parent).may_write(file):
            yield file


def _take_back(path: Path) -> None:
    """Remove what a start has written, and put back what it found."""
    aside = path / _ASIDE
    for name in _MADE:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)
        if (aside / name).exists():
            (aside / name).rename(path / name)
    if aside.is_dir():
        aside.rmdir()


def _remove_made(path: Path, made: Sequence[Path]) -> None:
    """Remove the folders that a start has made: that of the run, and those above it."""
    if path in made:
        for lock in path.glob(".lock*"):
            lock.unlink()
    for folder in made:
        # One that holds something by now stays.
        with contextlib.suppress(OSError):
            folder.rmdir()


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
            lock_file(stream, shared=shared, wait=False)
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
