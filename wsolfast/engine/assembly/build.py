"""Parts of a recipe: data sets, methods, devices."""

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsolfast import backbones, data, methods
from wsolfast._nearest import nearest
from wsolfast._system import count_cores
from wsolfast.engine.assembly.stage_refs import StageRef, classifier_of, fits, localizer_of, method_class
from wsolfast.engine.assembly.weights import find_weights
from wsolfast.engine.run.distributed import find_rank, world_size
from wsolfast.engine.run.errors import BackendError
from wsolfast.metrics import PROTOCOLS, Protocol, get_protocol
from wsolfast.recipe import DataSpec, EvaluateSpec, Recipe, RecipeError, RuntimeSpec, StageSpec, ValidateSpec

_log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` names.

    ``auto`` is a CUDA device, each process's own, or the CPU; an Apple GPU (``mps``) must be asked for.

    Args:
        name: ``runtime.device``.

    Raises:
        RecipeError: if it is none of these, or an Apple GPU is asked for by several processes.
        BackendError: if this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and world_size() > 1:
        name = f"cuda:{find_rank().local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        hint = nearest(name, ("auto", "cpu", "cuda", "mps"), "choose one of these")
        raise RecipeError(f"runtime.device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}; {hint}")
    if device.type == "mps":
        _check_mps()
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"device {name!r}: torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices")
    return device


def _check_mps() -> None:
    if not torch.backends.mps.is_available():
        why = "finds no Apple GPU that it can use" if torch.backends.mps.is_built() else "is built without it"
        raise BackendError(f"device 'mps': torch {torch.__version__} {why}; use --device cpu")
    if world_size() > 1:
        raise RecipeError(
            f"runtime.device: mps works for one process, {world_size()} were started; give it without torchrun or srun"
        )


def check_float64(method: nn.Module, device: torch.device, where: str) -> None:
    """Look whether a device can hold a method.

    Args:
        method: with its parameters and buffers, anywhere.
        device: where it is to work.
        where: what an error calls it.

    Raises:
        BackendError: if the method keeps float64 and the device is an Apple GPU, which has none.
    """
    state = [*method.named_parameters(), *method.named_buffers()]
    wide = [name for name, tensor in state if tensor.dtype == torch.float64]
    if device.type == "mps" and wide:
        raise BackendError(f"{where}: {wide[0]} is float64, which Apple GPUs do not have; use --device cpu")


def memory_format(channels_last: bool, device: torch.device) -> torch.memory_format:
    """Return the layout of images and weights: channels last if that is wanted and the device is good at it.

    Apple GPUs are not: a convolution's gradient took 30 times as long (https://github.com/pytorch/pytorch/issues/193349).
    """
    return torch.channels_last if channels_last and device.type != "mps" else torch.contiguous_format


def describe_device(device: torch.device) -> str:
    """Return the device and, of a GPU, its name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def count_workers(wanted: int) -> int:
    """Return the number of loader processes; -1 asks for none on up to four cores, else half the cores, at most eight.

    Processes of one run on one machine share its cores.
    """
    cores = count_cores() // find_rank().local_world_size
    if wanted >= 0:
        return wanted
    return 0 if cores <= 4 else min(8, cores // 2)


def open_training_data(recipe: Recipe, stage: StageSpec, class_names: Sequence[str] = ()) -> data.Dataset:
    """Open ``train_weaksup`` as a stage's training sees it: resized, randomly cropped and mirrored; no boxes.

    A stage that is fitted sees whole images, as evaluation does, of its own ``resize`` if it has one.

    Args:
        recipe: says what data that is.
        stage: one of its stages.
        class_names: those of the run, if it has any: classes are then numbered as there, by name.

    Raises:
        DataError: if the split cannot be opened, or has a class that the run does not know.
    """
    ref, spec, fitted = StageRef(recipe, stage), recipe.data, fits(stage)
    view: dict[str, Any] = {"resize": _whole_size(recipe, stage), "crop": None, "train": False}
    if not fitted:
        view = {"resize": ref.resize, "crop": ref.crop, "train": True, "keep_aspect": spec.keep_aspect}
        view |= {"crop_area": ref.crop_area, "rand_augment": spec.rand_augment}
    dataset = _open(recipe, "train_weaksup", class_names, **view)
    if not fitted and len(dataset.labels.unique()) == 1:
        name = dataset.class_names[int(dataset.labels[0])]
        _log.warning("data: every training image is of class %r; nothing is learned where nothing is told apart", name)
    known = set(dataset.labels.tolist())
    untrained = [name for label, name in enumerate(dataset.class_names) if label not in known]
    if untrained and stage.num_classes is None:
        first = ", ".join(map(repr, untrained[:3])) + ", ..." * (len(untrained) > 3)
        _log.warning(
            "data: %d of %d classes have no training image (%s)", len(untrained), len(dataset.class_names), first
        )
    return dataset


def check_other_splits(recipe: Recipe, class_names: Sequence[str]) -> None:
    """Open the splits that are measured, so that what is wrong with them is told before training and not after it.

    Args:
        recipe: says what data that is.
        class_names: those that training has.

    Raises:
        DataError: if a split is there and cannot be read, or has a class that training does not know.
        RecipeError: if an option of the data cannot be meant.
    """
    plain = replace(recipe, data=replace(recipe.data, skip_bad=False), runtime=replace(recipe.runtime, cache_gb=0))
    for split in data.SPLITS[1:]:
        with contextlib.suppress(data.SplitMissingError):
            _open(plain, split, class_names, resize=None, crop=None, train=False)


def open_export_data(
    recipe: Recipe, stage: StageSpec, split: str = "train_weaksup", class_names: Sequence[str] = ()
) -> data.Dataset:
    """Open ``split`` for a stage that leaves maps or boxes for a later one: whole images, warped, in one order.

    They have the size that the stage's training images are warped to, or that it is fitted at.
    """
    return _open(recipe, split, class_names, resize=_whole_size(recipe, stage), crop=None, train=False)


def open_validation_data(
    recipe: Recipe, stage: StageSpec, spec: ValidateSpec, class_names: Sequence[str]
) -> data.Dataset:
    """Open the split that a stage is validated on, all of it: whole images, of the stage's own size if it has one.

    Args:
        recipe: says what data that is.
        stage: one of its stages.
        spec: of the stage.
        class_names: those of the run.

    Raises:
        DataError: if the split cannot be opened, or has a class that the run does not know.
    """
    view = eval_view(recipe)
    own = stage.crop or stage.resize
    if own is not None and not spec.boxes:
        view = data.View(own)
    if spec.split == "held_out":
        # Training has looked through these images.
        recipe = replace(recipe, data=replace(recipe.data, skip_bad=False))
    split = "train_weaksup" if spec.split == "held_out" else spec.split
    return _open(recipe, split, class_names, resize=view.resize, crop=view.crop, train=False)


def open_eval_data(recipe: Recipe, split: str, class_names: Sequence[str] = ()) -> data.Dataset:
    """Open ``split`` as evaluation sees it: :func:`eval_view` of each image, in one order, nothing random.

    ``class_names`` and errors are those of :func:`open_training_data`.
    """
    view = eval_view(recipe)
    return _open(
        recipe, split, class_names, resize=view.resize, crop=view.crop, train=False, wide=classifier_view(recipe)
    )


def classifier_view(recipe: Recipe) -> data.View | None:
    """Return the view by which classes are ranked, cut into crops later for ``ten_crop``; None for the localiser's.

    Raises:
        RecipeError: if the recipe asks for crops and does not say of what size.
    """
    classifier = classifier_of(recipe)
    ranking = classifier or localizer_of(recipe)
    for name in ("ten_crop", "center_crop"):
        if getattr(recipe.evaluate, name) and (not isinstance(ranking.resize, int) or ranking.crop is None):
            raise RecipeError(f"evaluate.{name}: needs data.resize as one side and data.crop")
    if recipe.evaluate.center_crop and not recipe.evaluate.ten_crop:
        return data.View(ranking.resize, ranking.crop, keep_aspect=ranking.recipe.data.keep_aspect)
    return data.View(ranking.resize) if recipe.evaluate.ten_crop or classifier is not None else None


def eval_protocol(recipe: Recipe) -> Protocol:
    """Return the recipe's protocol; one that scales boxes or takes a crop does so at the size of the evaluation.

    Raises:
        RecipeError: if there is no such protocol.
    """
    name = recipe.evaluate.protocol
    if name not in PROTOCOLS:
        raise RecipeError(f"evaluate.protocol: no protocol {name!r}; {nearest(name, PROTOCOLS)}")
    protocol = get_protocol(name)
    if protocol.frame == "crop":
        resize = recipe.evaluate.resize if isinstance(recipe.evaluate.resize, int) else protocol.resize
        return replace(protocol, input_size=recipe.data.crop or protocol.input_size, resize=resize)
    size = eval_size(recipe)
    if protocol.frame == "scaled" and protocol.input_size is not None and isinstance(size, int):
        return replace(protocol, input_size=size)
    return protocol


def eval_view(recipe: Recipe) -> data.View:
    """Return the localiser's view of an image: all of it, warped, or the central crop if the protocol wants that."""
    protocol = eval_protocol(recipe)
    if protocol.frame == "crop":
        return data.View(protocol.resize, protocol.input_size)
    return data.View(eval_size(recipe))


def eval_size(recipe: Recipe) -> int | tuple[int, int] | None:
    """Return the size that evaluation warps to: ``evaluate.resize``, else the training crop, else ``data.resize``."""
    return recipe.evaluate.resize or recipe.data.crop or recipe.data.resize


def _whole_size(recipe: Recipe, stage: StageSpec) -> int | tuple[int, int] | None:
    """Return the size of the whole images that a stage is fitted to, or exports of."""
    return (stage.resize or eval_size(recipe)) if fits(stage) else StageRef(recipe, stage).resize


def _open(recipe: Recipe, split: str, class_names: Sequence[str], **view: Any) -> data.Dataset:
    spec: DataSpec = recipe.data
    options: dict[str, Any] = dict(spec.options)
    # data.options.decoder is how runs of earlier versions say data.decoder. A device's is for batches of an evaluation,
    # see decoders.open_decoder; what it does not read is the CPU's.
    decoder = options.pop("decoder", None if spec.decoder in data.LOSSY else spec.decoder)
    given = set(inspect.signature(data.open_dataset).parameters) & set(options)
    if given:
        raise RecipeError(f"data.options.{min(given)}: not an option of data set {spec.name!r}")
    try:
        dataset = data.open_dataset(
            spec.name,
            spec.root,
            split,
            seed=recipe.seed,
            skip_bad=spec.skip_bad,
            decoder=decoder,
            cache=_cache_spec(recipe.runtime),
            **view,
            **options,
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(f"data: {error}") from error
    _number_classes(dataset, recipe, class_names)
    return dataset


def _number_classes(dataset: data.Dataset, recipe: Recipe, class_names: Sequence[str]) -> None:
    """Number the classes of a split as the run's networks do.

    A run's own classes are matched by name. Where the recipe fixes the number of outputs, these were numbered
    elsewhere: by the names that the run has, if they are those of the data, else by the ids of the annotations.
    """
    fixed = next((stage.num_classes for stage in recipe.stage if stage.num_classes is not None), None)
    try:
        if class_names:
            dataset.relabel(class_names)
            return
    except data.DataError:
        if fixed is None or any(stage.epochs for stage in recipe.stage):
            raise
    if fixed is not None:
        dataset.number_by_id(fixed)


def _cache_spec(runtime: RuntimeSpec) -> data.CacheSpec | None:
    if not runtime.cache_gb:
        return None
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsolfast"
    return data.CacheSpec(Path(runtime.cache_dir or usual), int(runtime.cache_gb * 1e9))


def build_method(recipe: Recipe, stage: StageSpec, num_classes: int, *, pretrained: bool = True) -> methods.Method:
    """Build the stage's method on its backbone, on the CPU.

    Args:
        recipe: says how large its images are.
        stage: one of its stages.
        num_classes: of the data set; the stage's own ``num_classes`` wins.
        pretrained: load the backbone's weights; False where a checkpoint follows.

    Raises:
        RecipeError: if the method, the backbone or an option is unknown, or cannot be built as the recipe says.
    """
    size = eval_size(recipe)
    side = size if isinstance(size, int) else max(size) if size else 224
    spec = stage.backbone
    cls = method_class(stage)
    _check_options(f"stage.{stage.name}.model", cls.__init__, stage.model, given=("self", "backbone", "num_classes"))
    # Those of an earlier stage are there when it is trained, see load_start.
    given = "none" if spec.from_stage is not None else spec.weights
    weights = find_weights(given, recipe.data.root) if pretrained else "none"
    try:
        backbone = backbones.build(
            spec.name,
            layout=spec.layout,
            weights=weights,
            input_size=side,
            freeze_bn=spec.freeze_bn,
            freeze=spec.freeze,
            drop_path=spec.drop_path,
        )
        if not pretrained and given != "none":
            backbone.expect_classifier(stage.num_classes or num_classes)
        return cls(backbone, stage.num_classes or num_classes, **stage.model)
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"stage.{stage.name}: {error.args[0] if error.args else error}") from error


def refine(method: methods.Method, spec: EvaluateSpec) -> methods.Method:
    """Return ``method`` with its maps refined as ``evaluate.post`` asks; itself if that is ``"none"``.

    Raises:
        RecipeError: if there is no such refinement, an option of it is unknown or does not fit the backbone, or the
            method lacks what it reads or has no maps without one.
    """
    if spec.post == "none":
        if not method.gives_maps:
            raise RecipeError(
                f"evaluate.post: {type(method).__name__} has no maps by itself, got 'none'; use hires_cam or another "
                "refinement that takes gradients"
            )
        return method
    try:
        return methods.Refined(method, spec.post, **spec.refinements.get(spec.post, {}))
    except KeyError as error:
        raise RecipeError(f"evaluate.post: {error.args[0]}") from error
    except (ValueError, TypeError) as error:
        raise RecipeError(f"evaluate.{spec.post}: {str(error).removeprefix(f'{spec.post}: ')}") from error


def _check_options(where: str, constructor: Callable, options: dict, given: tuple[str, ...]) -> None:
    known = [name for name in inspect.signature(constructor).parameters if name not in given]
    for name in options:
        if name not in known:
            raise RecipeError(f"unknown key {f'{where}.{name}'!r}; {nearest(name, known)}")
