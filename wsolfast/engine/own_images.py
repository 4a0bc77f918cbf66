"""The first steps with one's own images: a look at their folder, a recipe for them, and what to type next."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsolfast import data
from wsolfast.backbones import list_backbones, list_layouts
from wsolfast.engine.run.errors import UsageError
from wsolfast.engine.run.words import count
from wsolfast.recipe import Recipe, parse_recipe

# What torchvision calls the weights of a network that it has.
TORCHVISION = {
    "densenet161": "DenseNet161_Weights.IMAGENET1K_V1",
    "efficientnet_b7": "EfficientNet_B7_Weights.IMAGENET1K_V1",
    "googlenet": "GoogLeNet_Weights.IMAGENET1K_V1",
    "inception_v3": "Inception_V3_Weights.IMAGENET1K_V1",
    "mobilenet_v2": "MobileNet_V2_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "squeezenet1_1": "SqueezeNet1_1_Weights.IMAGENET1K_V1",
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
}
_FROM_SCRATCH = ("small", "small_vit")
_HELD_OUT = 0.2
# Enough for a classifier that starts from ImageNet's weights, and for a small one that starts from nothing.
_STEPS = {True: 300, False: 400}
_MAX_EPOCHS = 60


@dataclass(frozen=True)
class FirstSteps:
    """Outcome of :func:`first_steps`."""

    found: data.FoundLayout
    lines: tuple[str, ...]  # what was found and written, one line each
    recipe: Path  # the file
    commands: tuple[str, ...]  # to type next


def first_steps(
    root: str | Path, output: Path | None = None, *, backbone: str | None = None, weights: str | None = None
) -> FirstSteps:
    """Look at a folder of images and write a recipe for it. Nothing that is there is overwritten.

    A layout that no data set reads is written as ``annotations.csv`` into the folder first.

    Args:
        root: the folder.
        output: the file of the recipe; the name of the folder with ``.toml``, in the current folder, if None.
        backbone: of the recipe; ``"mobilenet_v2"``, or ``"small"`` without weights, if None.
        weights: ``"none"``, a file or the name of published weights; torchvision's or timm's of the backbone if None.

    Returns:
        FirstSteps: what was found, and the commands that train, measure and show.

    Raises:
        DataError: if nothing can be trained on what is there, or it has faults.
        UsageError: if the file of the recipe is there, or there is no such backbone.
    """
    backbone = backbone or ("small" if weights == "none" else "mobilenet_v2")
    if not backbone.startswith("timm:") and backbone not in list_backbones():
        raise UsageError(f"--backbone: expected timm:NAME or one of {', '.join(list_backbones())}, got {backbone!r}")
    root = Path(root)
    found = data.look(root)
    name = re.sub(r"[^\w.-]+", "-", root.resolve().name).strip("-.") or "images"
    output = output or Path(f"{name}.toml")
    if output.exists():
        raise UsageError(f"{output} exists and is not replaced; give another file: --out FILE.toml")
    lines = [f"found: {found.kind} in {found.root}"]
    imported = None
    if found.name is None:
        summary = data.to_csv(root, found)
        imported = summary.file
        lines += [f"wrote: {imported}", *(f"note: {remark}" for remark in summary.remarks)]
        found = data.look(found.root)
    try:
        told, text, commands = _first_recipe(found, output, backbone, weights)
    except BaseException:
        # A second look would find it in place of what is corrected.
        if imported is not None:
            imported.unlink()
        raise
    output.write_text(text, encoding="utf-8")
    return FirstSteps(found, (*lines, *told), output, commands)


def _first_recipe(
    found: data.FoundLayout, output: Path, backbone: str, weights: str | None
) -> tuple[list[str], str, tuple[str, ...]]:
    """Return what is to be told of the data, the text of the recipe, and the commands."""
    assert found.name is not None
    report = data.check(found.name, found.root, **found.options)
    problems = [message for messages in report.problems.values() for message in messages]
    if problems:
        told = shlex.join(["wsolfast", "data", "check", found.name, str(found.root), *_words(found.options)])
        raise data.DataError(f"{problems[0]} ({count(len(problems), 'problem')}: {told} names them)")
    sources = {split: data.open_source(found.name, found.root, split, **found.options) for split in report.counts}
    training = sources.get("train_weaksup")
    if training is None:
        raise data.DataError(f"{found.root}: no image to train on; {found.kind} without a training split")
    if len(training.class_names) < 2:
        raise data.DataError(
            f"{found.root}: one class, {training.class_names[0]!r}, and a classifier tells at least two apart; add "
            "images of something else as a second one"
        )
    lines = []
    for split, counted in report.counts.items():
        parts = [count(counted.images, "image"), count(counted.classes, "class", "classes")]
        parts += [count(counted.boxes, "box", "boxes")] * bool(counted.boxes)
        parts += [count(counted.masks, "mask")] * bool(counted.masks)
        lines.append(f"  {split}: {', '.join(parts)}")
    # Of a split that nobody has made there is nothing to say.
    notes = [messages[:3] for kind, messages in report.notes.items() if kind != "split not available"]
    lines += [f"note: {one}" for messages in notes for one in messages]
    lines += [f"note: {one}" for one in (*found.remarks, *_twins(sources))]
    text, measured = _recipe(found, report, sources, backbone, weights)
    recipe = parse_recipe(text, output.stem)
    lines.append(f"wrote: {output}: {_in_words(recipe)}")
    return lines, text, _commands(output, recipe, training, measured)


def _in_words(recipe: Recipe) -> str:
    (stage,) = recipe.stage
    weights = "no weights" if stage.backbone.weights == "none" else stage.backbone.weights
    validated = ""
    if stage.validate is not None:
        on = "a fifth held out" if stage.validate.split == "held_out" else "the classes of the validation split"
        validated = f", validated on {on}"
    return f"{stage.method} on {stage.backbone.name} with {weights}, {count(stage.epochs, 'epoch')}{validated}"


def _commands(output: Path, recipe: Recipe, training: data.Source, measured: bool) -> tuple[str, ...]:
    run = shlex.quote(f"runs/{recipe.name}")
    train = f"wsolfast train {shlex.quote(str(output))}"
    image = shlex.quote(training.describe(0))
    if measured:
        return train, f"wsolfast eval {run}", f"wsolfast report {run}"
    return train, f"wsolfast localize {run} {image}", f"wsolfast report {run}"


def _words(options: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in options.items()]


def _twins(sources: dict[str, data.Source]) -> Iterator[str]:
    """Yield a line on images that are the same file twice."""
    paths = [Path(source.describe(index)) for source in sources.values() for index in range(len(source.image_ids))]
    by_size: dict[int, list[Path]] = {}
    for path in filter(Path.is_file, paths):
        by_size.setdefault(path.stat().st_size, []).append(path)
    seen: dict[str, Path] = {}
    twins = []
    for path in (path for some in by_size.values() if len(some) > 1 for path in some):
        with path.open("rb") as stream:
            first = seen.setdefault(hashlib.file_digest(stream, "sha256").hexdigest(), path)
        if first != path:
            twins.append((path, first))
    if twins:
        yield f"{count(len(twins), 'image')} of the same bytes as another one, first {twins[0][0]} and {twins[0][1]}"


def _recipe(
    found: data.FoundLayout,
    report: data.CheckReport,
    sources: dict[str, data.Source],
    backbone: str,
    weights: str | None,
) -> tuple[str, bool]:
    """Return the text of the recipe, and True if boxes or masks can be measured."""
    images, classes = report.counts["train_weaksup"].images, len(sources["train_weaksup"].class_names)
    usual = "pretrained" if backbone.startswith("timm:") else TORCHVISION.get(backbone, "pretrained")
    weights = weights or ("none" if backbone in _FROM_SCRATCH else usual)
    pretrained = weights != "none"
    batch = min(32, max(4, images // 4))
    epochs = min(_MAX_EPOCHS, max(5, round(_STEPS[pretrained] * batch / images)))
    side = 224 if pretrained else 96
    fine = ("stride8",) if backbone == "small" else ("stride16", "spa14")
    layout = next((one for one in fine if one in list_layouts(backbone)), None)
    measured = [split for split in ("test", "train_fullsup") if split in sources and sources[split].is_annotated]
    options = "".join(f"{key} = {_toml(value)}\n" for key, value in found.options.items())
    held_out = round(_HELD_OUT * images)
    validated = ""
    if not measured and "train_fullsup" in sources:
        validated = _VALIDATE.format(split="train_fullsup", held_out="")
    elif not measured and 1 <= held_out <= images - classes:
        validated = _VALIDATE.format(split="held_out", held_out=f"held_out = {_HELD_OUT}         # of each class\n")
    text = _TEXT.format(
        title=_toml(f"CAM on {found.root.resolve().name}: {classes} classes"),
        name=_toml(found.name),
        root=_toml(str(found.root.resolve())),
        resize=side if not pretrained else 256,
        crop=f"crop = {side}\n" if pretrained else "",
        options=f"\n[data.options]\n{options}" if options else "",
        epochs=epochs,
        batch=batch,
        backbone=_toml(backbone),
        layout=f"layout = {_toml(layout)}\n" if layout else "",
        weights=_toml(weights),
        freeze="freeze_bn = true        # a few images are too few for statistics of their own\n" if pretrained else "",
        optim=_PRETRAINED if pretrained else _SCRATCH,
        validate=validated,
        split="" if measured[:1] != ["train_fullsup"] else 'split = "train_fullsup"  # there is no test split\n',
    )
    return text, bool(measured)


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


_TEXT = """\
# Written by wsolfast init. Every value can be changed here, or as KEY=VALUE behind wsolfast train.
summary = {title}

[data]
name = {name}
root = {root}
resize = {resize}
{crop}{options}
[[stage]]
name = "localizer"
method = "cam"          # wsolfast recipes lists the others
epochs = {epochs}
batch_size = {batch}

[stage.backbone]
name = {backbone}
{layout}weights = {weights}
{freeze}
[stage.model]
head = "linear"
cam_relu = true

{optim}{validate}
[evaluate]
protocol = "wsolevaluation"
{split}
[runtime]
amp = "auto"
"""
_PRETRAINED = """\
[stage.optim]
name = "adam"
lr = 1e-4
weight_decay = 1e-4

[stage.optim.lr_factors]
head_weight = 10.0      # the head starts from nothing
head_bias = 10.0

[stage.schedule]
name = "poly"
warmup_steps = 10
"""
_SCRATCH = """\
[stage.optim]
name = "sgd"
lr = 0.05
momentum = 0.9
nesterov = true
weight_decay = 1e-4

[stage.schedule]
name = "poly"
"""
_VALIDATE = """
[stage.validate]        # the images have no boxes, so classes are what can be measured
split = "{split}"
{held_out}"""
