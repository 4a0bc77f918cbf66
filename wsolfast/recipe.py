"""Recipes: TOML files that say what is trained on what, and where each value is from; read strictly, written whole."""

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).with_name("recipes")


class RecipeError(ValueError):
    """A recipe or an override that cannot be meant; one line that names the key and what was expected."""

    exit_code = 2


@dataclass(frozen=True)
class Paper:
    """The published row that a recipe stands for. Percent; ``*_error`` is 100 minus the accuracy."""

    title: str
    venue: str
    table: str = ""
    note: str = ""
    top1_cls: float | None = None
    top5_cls: float | None = None
    top1_loc: float | None = None
    top5_loc: float | None = None
    gt_known_loc: float | None = None
    top1_cls_error: float | None = None
    top5_cls_error: float | None = None
    top1_loc_error: float | None = None
    top5_loc_error: float | None = None
    gt_known_loc_error: float | None = None
    max_box_acc: float | None = None
    max_box_acc_v2: float | None = None
    px_ap: float | None = None

    def numbers(self) -> dict[str, float]:
        """The published values that are given, as accuracies in percent."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.default is None}
        return {
            name.removesuffix("_error"): round(100 - value, 4) if name.endswith("_error") else value
            for name, value in given.items()
            if value is not None
        }


@dataclass(frozen=True)
class DataSpec:
    """``[data]``: what :func:`wsolfast.data.open_dataset` is asked for."""

    name: str
    root: str | None = None  # given on the command line: data.root=DIR
    resize: int | tuple[int, int] | None = (
        None  # one side or [height, width] that images are warped to; their own if absent
    )
    keep_aspect: bool = False  # in training, resize is the shorter side instead of a warp
    crop: int | None = None  # side of the random training crop
    crop_area: tuple[float, float] | None = None  # least and most share of the area that training crops are taken from
    rand_augment: tuple[int, int] | None = None  # in training: number and magnitude (0 to 30) of distortions
    skip_bad: bool = False
    decoder: str | None = None  # who decodes JPEG: "auto" if absent; "fast" is inexact; see docs/data.md
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class BackboneSpec:
    """``[stage.backbone]``: what :func:`wsolfast.backbones.build` is asked for."""

    name: str
    layout: str | None = None
    weights: str = "none"
    freeze_bn: bool = False
    freeze: str | None = None  # stage up to which nothing trains


@dataclass(frozen=True)
class OptimSpec:
    """``[stage.optim]``."""

    name: str = "sgd"  # "sgd" or "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    lr_factors: dict[str, float] = field(default_factory=dict)  # by ParamGroup name; 1 where absent, 0 freezes


@dataclass(frozen=True)
class ScheduleSpec:
    """``[stage.schedule]``: the learning rate as a function of the step alone."""

    name: str = "constant"  # "constant", "step", "poly" or "exponential" (times gamma at the start of every epoch)
    milestones: tuple[int, ...] = ()  # "step", "poly": 0-based epochs at whose start the rate is multiplied by gamma
    gamma: float | tuple[float, ...] = 0.1  # one for all milestones, or one each
    power: float = 0.9
    by_epoch: bool = False  # "poly": the rate changes at the start of epochs only
    warmup_steps: int = 0  # linear, from 1/warmup_steps of the rate


@dataclass(frozen=True)
class StageSpec:
    """``[[stage]]``: one training run; a later stage may read what an earlier one exports."""

    name: str
    method: str
    epochs: int
    backbone: BackboneSpec
    batch_size: int = 32  # images per step, of all processes together
    accumulate: int = 1  # a batch is worked through in so many parts, each with its own statistics, pairs and pool
    sync_bn: bool = False  # batch norms see the images of all processes, not of their own alone
    num_classes: int | None = None  # as many as the data set has, if absent
    resize: int | tuple[int, int] | None = None  # of this stage's images; data.resize if absent
    crop: int | None = None  # data.crop if absent
    uses: dict[str, str] = field(default_factory=dict)  # batch field -> the earlier stage that exports it
    model: dict[str, object] = field(default_factory=dict)  # the method's own options
    optim: OptimSpec = field(default_factory=OptimSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)


@dataclass(frozen=True)
class EvaluateSpec:
    """``[evaluate]``."""

    protocol: str = "wsolevaluation"
    localizer: str | None = None  # stage whose maps are measured; the last that is not the classifier if absent
    classifier: str | None = None  # stage or run folder that ranks the classes; the localiser if absent and able
    split: str = "test"
    ten_crop: bool = False  # classes are ranked by ten crops of the image at data.resize
    center_crop: bool = False  # classes are ranked by the central crop of the image, resized as in training
    topk: int = 5
    batch_size: int = 32
    resize: int | tuple[int, int] | None = (
        None  # what the localised image is warped to; data.crop or data.resize if absent
    )
    post: str = "none"  # "scg" refines the maps of any method by self-correlation, as SPA does its own
    scg: dict[str, object] = field(default_factory=dict)  # options of methods.SelfCorrelation, for post = "scg"
    variant: str = ""  # the [[variant]] that is measured; none if empty


@dataclass(frozen=True)
class VariantSpec:
    """``[[variant]]``: a row of its own from the same training, measured otherwise."""

    name: str
    set: tuple[str, ...]  # key=value, as on the command line
    summary: str = ""


@dataclass(frozen=True)
class RuntimeSpec:
    """``[runtime]``: how the work is done; results depend on it only through rounding."""

    device: str = "auto"  # "auto", "cpu", "cuda" or "cuda:N"
    amp: str = "none"  # "none" or "bf16"
    channels_last: bool = False
    compile: bool = False  # the backbone, by torch.compile
    fused_optimizer: bool = False  # one kernel for all parameters
    deterministic: bool = False  # the same bits every time, evaluated in batches of any size; slower on a GPU
    skip_nonfinite: int = 0  # so many steps whose loss or gradient is not finite are left out before the run stops
    timeout_minutes: float = 30.0  # how long a process waits for another one
    # Loader processes of training; -1: none on up to four cores, otherwise half the cores, at most eight. In evaluation
    # threads that decode; -1: half the cores, on a GPU all of them, at most 16.
    workers: int = -1
    cache_gb: float | None = None  # so many GB of decoded, resized images are kept on disk; none if absent
    cache_dir: str | None = None  # where; $XDG_CACHE_HOME/wsolfast if absent
    # Training images are decoded once into so many GB of the device's memory, if all of them fit.
    device_cache_gb: float | None = None
    save_every_steps: int = 0  # 0: at the end of epochs and by the clock only
    save_every_minutes: float = 10.0


@dataclass(frozen=True)
class Recipe:
    """A recipe with every default filled in."""

    name: str
    data: DataSpec
    stage: tuple[StageSpec, ...]
    summary: str = ""
    seed: int = 0
    paper: Paper | None = None
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    runtime: RuntimeSpec = field(default_factory=RuntimeSpec)
    variant: tuple[VariantSpec, ...] = ()

    def as_measured(self) -> "Recipe":
        """The recipe with the settings of ``evaluate.variant``; itself if that is empty."""
        name = self.evaluate.variant
        if not name:
            return self
        (chosen,) = (variant for variant in self.variant if variant.name == name)
        plain = replace(self, variant=(), evaluate=replace(self.evaluate, variant=""))
        measured = parse_recipe(dump_recipe(plain), self.name, chosen.set)
        return replace(measured, evaluate=replace(measured.evaluate, variant=name))


CHOICES = {
    "data.decoder": ("auto", "pil", "simplejpeg", "cv2", "fast"),
    "stage.optim.name": ("sgd", "adam"),
    "stage.schedule.name": ("constant", "step", "poly", "exponential"),
    "runtime.amp": ("none", "bf16"),
    "evaluate.split": ("test", "train_fullsup"),
    "evaluate.post": ("none", "scg"),
}


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    return list(_recipes())


@cache
def _recipes() -> dict[str, Path]:
    found = ((path.relative_to(_FOLDER).with_suffix("").as_posix(), path) for path in _FOLDER.rglob("*.toml"))
    return dict(sorted(found))


def recipe_path(name_or_path: str | Path) -> Path:
    """The file behind a recipe's name, or the path itself if it is one.

    Raises:
        RecipeError: if there is neither; the message names the nearest recipe.
    """
    text = str(name_or_path)
    if text in _recipes():
        return _recipes()[text]
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if path.is_file():
            return path
        raise RecipeError(f"no recipe file at {path}")
    raise RecipeError(f"no recipe named {text!r}; {_nearest(text, list_recipes())}")


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or from a file and apply overrides.

    Override values are TOML; what does not parse as TOML is taken as a string, so ``data.root=/data/cub`` needs no
    quotes. ``stage.<name>.key`` reaches one stage; ``stage.key`` does where there is only one.

    Args:
        name_or_path: one of :func:`list_recipes`, or a ``.toml`` file.
        overrides: ``key.sub=value`` each, applied in order.

    Returns:
        Recipe: with the defaults of everything that it does not say.

    Raises:
        RecipeError: unknown key (with the nearest one), wrong type, or a file that is not TOML.
    """
    path = recipe_path(name_or_path)
    name = path.relative_to(_FOLDER).with_suffix("").as_posix() if path.is_relative_to(_FOLDER) else path.stem
    return parse_recipe(path.read_text(encoding="utf-8"), name, overrides)


def parse_recipe(text: str, name: str, overrides: Iterable[str] = ()) -> Recipe:
    """:func:`load_recipe` on TOML text; ``name`` is used where the text has no ``name`` of its own.

    Args:
        text: of the recipe.
        name: what errors call it.
        overrides: as for :func:`load_recipe`.

    Raises:
        RecipeError: as :func:`load_recipe`.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name}: not valid TOML: {error}") from None
    table.setdefault("name", name)
    for override in overrides:
        _apply_override(table, override)
    recipe = _read(Recipe, table, "")
    _check(recipe)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, defaults included; :func:`parse_recipe` gives the same recipe back."""
    lines: list[str] = []
    _write_table(lines, _plain(recipe), "")
    return "\n".join(lines).strip() + "\n"


def _nearest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"


def _check(recipe: Recipe) -> None:
    names = [stage.name for stage in recipe.stage]
    if not names:
        raise RecipeError(f"recipe {recipe.name}: no [[stage]]")
    reserved = {f.name for f in dataclasses.fields(StageSpec)}
    for i, stage in enumerate(recipe.stage):
        where = f"stage.{stage.name}"
        if stage.name in reserved or not re.fullmatch(r"\w[\w-]*", stage.name):
            raise RecipeError(
                f"stage name {stage.name!r}: use letters, digits and dashes, and none of {sorted(reserved)}"
            )
        if stage.name in names[:i]:
            raise RecipeError(f"stage.name: two stages are called {stage.name!r}")
        for batch_field, source in stage.uses.items():
            if source not in names[:i]:
                raise RecipeError(f"{where}.uses.{batch_field}: no earlier stage named {source!r}")
        for key, value, least in (
            ("epochs", stage.epochs, 0),
            ("batch_size", stage.batch_size, 1),
            ("accumulate", stage.accumulate, 1),
            ("lr", stage.optim.lr, 0),
        ):
            if value < least:
                raise RecipeError(f"{where}.{key}: must not be negative{' or zero' * least}")
        _check_choice("stage.optim.name", stage.optim.name)
        _check_choice("stage.schedule.name", stage.schedule.name)
        schedule = stage.schedule
        if schedule.name == "exponential" and (isinstance(schedule.gamma, tuple) or schedule.milestones):
            raise RecipeError(f"{where}.schedule: exponential takes one gamma and no milestones")
        if isinstance(schedule.gamma, tuple) and len(schedule.gamma) != len(schedule.milestones):
            raise RecipeError(
                f"{where}.schedule.gamma: expected one number or {len(schedule.milestones)}, one per milestone, "
                f"got {len(schedule.gamma)}"
            )
    _check_variants(recipe)
    if recipe.data.decoder is not None:
        _check_choice("data.decoder", recipe.data.decoder)
    for key in ("cache_gb", "device_cache_gb"):
        gigabytes = getattr(recipe.runtime, key)
        if gigabytes is not None and not gigabytes >= 0:
            raise RecipeError(f"runtime.{key}: expected 0 or more, got {gigabytes}")
    if recipe.data.rand_augment is not None and any(stage.uses for stage in recipe.stage):
        raise RecipeError("data.rand_augment: moves pixels, which the maps of an earlier stage do not follow")
    _check_choice("runtime.amp", recipe.runtime.amp)
    _check_choice("evaluate.split", recipe.evaluate.split)
    _check_choice("evaluate.post", recipe.evaluate.post)


def _check_variants(recipe: Recipe) -> None:
    names = [variant.name for variant in recipe.variant]
    if recipe.evaluate.variant not in ("", *names):
        raise RecipeError(f"evaluate.variant: no variant {recipe.evaluate.variant!r}; {_nearest('', names)}")
    if len(set(names)) < len(names):
        raise RecipeError(f"variant.name: two variants are called {max(names, key=names.count)!r}")
    for variant in recipe.variant:
        if not re.fullmatch(r"\w[\w-]*", variant.name):
            raise RecipeError(f"variant name {variant.name!r}: use letters, digits and dashes")
        if not variant.set:
            raise RecipeError(f"variant.{variant.name}.set: nothing differs; give key=value settings")
        for setting in variant.set:
            if not setting.startswith(("evaluate.", "stage.")) or setting.startswith("evaluate.variant"):
                raise RecipeError(f"variant.{variant.name}.set: {setting!r}: only evaluate.* and stage.* can differ")
        try:
            replace(recipe, evaluate=replace(recipe.evaluate, variant=variant.name)).as_measured()
        except RecipeError as error:
            raise RecipeError(f"variant.{variant.name}.set: {error}") from None


def _check_choice(key: str, value: str) -> None:
    if value not in CHOICES[key]:
        raise RecipeError(f"{key}: expected one of {', '.join(CHOICES[key])}, got {value!r}")


def _apply_override(table: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    head, *rest = parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"override {override!r}: expected key=value, for instance data.root=/data/CUB_200_2011")
    target = table
    if head == "stage":
        target, parts = _choose_stage(table, rest, override)
    for part in parts[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise RecipeError(f"override {override!r}: {part!r} is a value, not a table")
    target[parts[-1]] = override_value(text)


def _choose_stage(table: dict, rest: list[str], override: str) -> tuple[dict, list[str]]:
    stages = {stage.get("name"): stage for stage in table.get("stage", [])}
    if len(rest) > 1 and rest[0] in stages:
        return stages[rest[0]], rest[1:]
    if rest and len(stages) == 1:
        return next(iter(stages.values())), rest
    raise RecipeError(f"override {override!r}: name the stage, stage.NAME.key=value; {_nearest('', stages)}")


def override_value(text: str) -> object:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text


def _read(cls: type, table: object, where: str) -> Any:
    """A dataclass from a TOML table: unknown keys, wrong types and missing values are errors that name the key."""
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: expected a table, got {table!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            raise RecipeError(f"unknown key {_join(where, key)!r}; {_nearest(key, fields)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise RecipeError(f"missing key {_join(where, name)!r}")
    return cls(**{key: _convert(value, hints[key], _join(where, key)) for key, value in table.items()})


def _convert(value: object, hint: Any, where: str) -> object:
    options = [o for o in typing.get_args(hint) if o is not type(None)] if _is_union(hint) else [hint]
    for option in options:
        origin, args = typing.get_origin(option), typing.get_args(option)
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return _read(option, value, where)
        if origin is tuple and isinstance(value, list) and (args[-1] is Ellipsis or len(value) == len(args)):
            if isinstance(args[0], type) and dataclasses.is_dataclass(args[0]):
                return tuple(_read(args[0], item, where) for item in value)
            return tuple(_convert(item, args[0], where) for item in value)
        if origin is dict and isinstance(value, dict):
            return {key: _convert(item, args[1], f"{where}.{key}") for key, item in value.items()}
        if option is object:
            return value
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if option in (str, int, float, bool) and type(value) is option:
            return value
    wanted = " or ".join(_type_name(option) for option in options)
    raise RecipeError(f"{where}: expected {wanted}, got {value!r}")


def _is_union(hint: object) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _type_name(option: Any) -> str:
    origin, args = typing.get_origin(option), typing.get_args(option)
    if origin is tuple:
        if dataclasses.is_dataclass(args[0]):
            return "an array of tables"
        return f"an array of {'' if args[-1] is Ellipsis else f'{len(args)} '}{args[0].__name__}"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
    return "a table" if origin is dict else names[option]


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _plain(value: object) -> Any:
    """Dataclasses to dicts without None, which TOML cannot say and which absence means."""
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_table_array(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _write_table(lines: list[str], table: dict, path: str) -> None:
    """Values first, then sub-tables, as TOML wants them; empty tables are left out."""
    for key, value in table.items():
        if not isinstance(value, dict) and not _is_table_array(value):
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in table.items():
        name = _join(path, _key(key))
        if isinstance(value, dict) and value:
            lines += ["", f"[{name}]"]
            _write_table(lines, value, name)
        elif _is_table_array(value):
            for item in value:
                lines += ["", f"[[{name}]]"]
                _write_table(lines, item, name)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def _string(text: str) -> str:
    # JSON escapes what TOML's basic strings must escape, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())}}}"
    raise RecipeError(f"cannot write {value!r} as TOML")
