"""Published checkpoints as runs. The folder is the registry: ``convert/<name>.py`` is the code base ``<name>``."""

import hashlib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from wsolfast._nearest import nearest
from wsolfast.backbones import WeightsError, read_state
from wsolfast.convert._layout import Layout
from wsolfast.convert._read_pool import read_pool
from wsolfast.engine.assembly.build import build_method
from wsolfast.engine.assembly.checkpoint import save_weights
from wsolfast.engine.assembly.preflight import check_recipe
from wsolfast.engine.run.environment import now
from wsolfast.engine.run.errors import UsageError
from wsolfast.engine.run.run_folder import RunFolder, write_json
from wsolfast.recipe import Recipe, dump_recipe, load_recipe, parse_recipe

__all__ = ["Conversion", "list_sources", "read_checkpoint", "write_run"]

_SHOWN = 3


@dataclass(frozen=True)
class Conversion:
    """A published checkpoint in our terms."""

    file: Path  # the checkpoint
    source: str  # one of list_sources
    origin: str  # where that code is published
    network: str  # which of its networks it is, for people
    recipe: Recipe  # ours that it is the result of
    tensors: dict[str, Tensor]  # under our names
    names: dict[str, str]  # our tensor -> where it is from
    dropped: dict[str, str]  # the checkpoint's tensor -> why nothing reads it
    classless: bool  # it tells objects from background: another run has to rank the classes


def list_sources() -> list[str]:
    """Return the names of the code bases whose checkpoints are read, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def read_checkpoint(
    file: Path,
    *,
    source: str | None = None,
    recipe: str | None = None,
    pool: str | None = None,
    overrides: Iterable[str] = (),
) -> Conversion:
    """Read a published checkpoint; no code of it is run.

    Args:
        file: ``.pth``, ``.pth.tar`` or ``.safetensors``; a state dict, bare or beside an optimizer.
        source: one of :func:`list_sources`; told from the names of the tensors if None.
        recipe: name or file of the recipe that the weights are for; the layout's own if None.
        pool: file of the context pool, for code bases that keep one beside the checkpoint; ``"none"`` starts from an
            empty one; None looks beside the checkpoint, where the released code writes it.
        overrides: ``key=value`` for the recipe.

    Returns:
        Conversion: for :func:`write_run`.

    Raises:
        WeightsError: if the file is absent, damaged, asks for code, is of no known layout, or misses or adds tensors.
        UsageError: if there is no such source.
    """
    found = _without_prefix(read_state(file))
    name, layout = _recognize(file, found, source)
    outputs = layout.count_outputs(found)
    if outputs is None:
        raise WeightsError(
            f"{file} ({layout.network}) lacks {layout.name_of(layout.output + '.weight')}, a row per class"
        )
    kept = _read_kept(file, layout, pool)
    own = recipe or layout.recipes.get(outputs) or next(iter(layout.recipes.values()))
    words = [] if layout.classless else [f"stage.num_classes={outputs}"]
    resolved = _one_stage(load_recipe(own), layout, [*words, *_shape_overrides(found, layout, kept), *overrides])
    check_recipe(resolved)
    (stage,) = resolved.stage
    with torch.device("meta"):
        wanted = build_method(resolved, stage, stage.num_classes or outputs, pretrained=False).state_dict()
    names = {key: layout.name_of(key) for key in wanted if key not in kept}
    _check(f"{file} ({name}: {layout.network})", resolved.name, wanted, names, found, kept)
    sources = {key: name for key, name in names.items() if name is not None and name in found}
    used = set(sources.values())
    left = {key: layout.cause_of_death(key) for key in found if key not in used}
    unknown = [key for key, cause in left.items() if cause is None]
    if unknown:
        raise WeightsError(
            f"{file} ({name}: {layout.network}): recipe {resolved.name} has no place for {len(unknown)} tensors: "
            f"{_some(unknown)}"
        )
    tensors = {
        key: found[sources[key]].to(like.dtype) if key in sources else kept.get(key, _zero(like))
        for key, like in wanted.items()
    }
    return Conversion(
        file=file,
        source=name,
        origin=_source(name).ORIGIN,
        network=layout.network,
        recipe=resolved,
        tensors=tensors,
        names={key: sources.get(key) or ("the context pool" if key in kept else "0") for key in wanted},
        dropped={key: cause for key, cause in left.items() if cause is not None},
        classless=layout.classless,
    )


def write_run(conversion: Conversion, path: Path, *, exist_ok: bool = False) -> RunFolder:
    """Write a finished run of the conversion's recipe to ``path``, with a ``card.json`` that says its origin.

    Args:
        conversion: what :func:`read_checkpoint` gave.
        path: folder of the run.
        exist_ok: replace the run that is there.

    Returns:
        RunFolder: of the run.

    Raises:
        UsageError: if there is a run already, or something else.
    """
    run = RunFolder.create(path, conversion.recipe, exist_ok=exist_ok, reads=[conversion.file])
    with run.starting():
        _write(conversion, run)
    return run


def _write(conversion: Conversion, run: RunFolder) -> None:
    recipe = conversion.recipe
    stage = recipe.stage[-1]
    about = {"method": stage.method, "recipe": recipe.name, "stage": stage.name, "source": conversion.source}
    save_weights(run.weights_path(stage.name), conversion.tensors, about)
    with conversion.file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    card = {
        "source": conversion.source,
        "origin": conversion.origin,
        "network": conversion.network,
        "file": {"name": conversion.file.name, "sha256": digest},
        "converted": now(),
        "recipe": recipe.name,
        "classes": stage.num_classes,
        "parameters": sum(tensor.numel() for tensor in conversion.tensors.values()),
        "published": {name: value for name, value in asdict(recipe.paper).items() if value} if recipe.paper else None,
        "tensors": conversion.names,
        "dropped": conversion.dropped,
    }
    write_json(run.path / "card.json", card)


def _source(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _without_prefix(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefix that DataParallel puts in front of every name."""
    while found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _recognize(file: Path, found: Mapping[str, Tensor], wanted: str | None) -> tuple[str, Layout]:
    """Return the source and layout that explain most names, if every module of the layout is there."""
    known = list_sources()
    wanted = wanted and wanted.replace("-", "_")
    if wanted is not None and wanted not in known:
        raise UsageError(f"--source {wanted!r}: {nearest(wanted, known)}")
    candidates = [(name, layout) for name in ([wanted] if wanted else known) for layout in _source(name).LAYOUTS]
    rated = [
        # Names alone do not tell a network with one class from one that knows no classes.
        (
            len(layout.absent(found)),
            len(layout.unknown(found)),
            layout.misfits(found) + ((layout.count_outputs(found) == 1) != layout.classless),
        )
        for _, layout in candidates
    ]
    best = min(range(len(rated)), key=lambda at: (sum(rated[at]), rated[at]))
    (absent, unknown, _), (name, layout) = rated[best], candidates[best]
    if absent or unknown:
        total = len(layout.modules)
        problem = (
            f"it lacks {_some(layout.absent(found))}" if absent else f"it has {_some(layout.unknown(found))} besides"
        )
        raise WeightsError(
            f"{file} is of no known layout{f' of {wanted}' if wanted else ''}; nearest is {name}: {layout.network} "
            f"(recipe {next(iter(layout.recipes.values()))}), of whose {total} modules {problem}"
        )
    return name, layout


def _one_stage(recipe: Recipe, layout: Layout, overrides: Iterable[str]) -> Recipe:
    """Return the recipe with the layout's stage alone, without published numbers, which are of all stages together."""
    if len(recipe.stage) > 1:
        kept = [stage for stage in recipe.stage if stage.name == layout.stage]
        if not kept:
            raise UsageError(f"--recipe {recipe.name}: it has no stage {layout.stage!r}, which {layout.network} is")
        evaluated = replace(recipe.evaluate, classifier=None, localizer=None)
        recipe = replace(recipe, stage=(replace(kept[0], uses={}),), evaluate=evaluated, paper=None)
    return parse_recipe(dump_recipe(recipe), recipe.name, overrides)


def _read_kept(file: Path, layout: Layout, pool: str | None) -> dict[str, Tensor]:
    """Read the tensors that the code base keeps in another file."""
    if layout.pool is None:
        if pool is not None:
            raise UsageError(f"--pool: {layout.network} has no context pool; leave it out")
        return {}
    if pool == "none":
        return {}
    if pool is None and "net_train_" not in file.name:
        raise WeightsError(
            f"{file} comes without its context pool, which the released code keeps in mask_train_*.pth; "
            "give --pool FILE, or --pool none to start from an empty one"
        )
    beside = file.with_name(file.name.replace("net_train_", "mask_train_"))
    return {layout.pool: read_pool(Path(pool) if pool else beside)}


def _shape_overrides(found: Mapping[str, Tensor], layout: Layout, kept: Mapping[str, Tensor]) -> list[str]:
    """Return overrides for what the layout leaves open and the tensors tell."""
    words = []
    if layout.pool is not None and layout.pool in kept:
        words.append(f"stage.model.pool_size={kept[layout.pool].shape[-1]}")
    up, down = ([f"{branch}_classifier.0.{leaf}" for leaf in ("weight", "bias")] for branch in ("up", "down"))
    if all(name in found for name in (*up, *down)):
        same = all(torch.equal(found[one], found[other]) for one, other in zip(up, down, strict=True))
        words.append(f"stage.model.shared_classifier={'true' if same else 'false'}")
    return words


def _check(
    what: str,
    recipe: str,
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str | None],
    found: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
) -> None:
    missing = [key for key, name in names.items() if name not in found and not _may_be_zero(key)]
    if missing:
        raise WeightsError(
            f"{what} lacks {len(missing)} tensors of recipe {recipe}: "
            f"{_some([names[key] or f'any for our {key}' for key in missing])}"
        )
    given = {key: found[name] for key, name in names.items() if name is not None and name in found} | dict(kept)
    misfits = [
        f"{names.get(key) or key} {list(tensor.shape)} instead of {list(wanted[key].shape)}"
        for key, tensor in given.items()
        if tensor.shape != wanted[key].shape
    ]
    if misfits:
        raise WeightsError(f"{what} does not fit recipe {recipe} in shape: {_some(misfits)}")


def _may_be_zero(key: str) -> bool:
    """Allow zeros for counters of batch norms, which old checkpoints lack, and for an empty context pool."""
    return key.endswith("num_batches_tracked") or key == "pool.maps"


def _zero(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, device="cpu")


def _some(values: list[str]) -> str:
    rest = len(values) - _SHOWN
    return ", ".join(values[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
