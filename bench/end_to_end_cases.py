"""Cases that are timed from end to end: recipes, at sizes that a machine can bear, and the speed that is wanted."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from wsolfast import data
from wsolfast.engine.assembly.precision import choose_amp
from wsolfast.recipe import Recipe, StageSpec, load_recipe

# Batches that training in memory goes round.
TURNS = 3
# Of rendered images in an evaluation, and of what they show, which the networks know among others.
DISTINCT, CLASSES = 512, 32
# So many steps leave weights where they are.
RATE = 1e-7
# Times the same network's plain step, or its forward, may be taken.
TRAINING_OVERHEAD, EVALUATION_OVERHEAD = 1.15, 1.10
_ON_GPU = ("runtime.amp=bf16", "runtime.channels_last=true", "runtime.compile=true", "runtime.fused_optimizer=true")


@dataclass(frozen=True)
class EndToEnd:
    """A stage of a recipe as it stands, with random weights and ``classes`` classes, on rendered images.

    Training goes round and round batches of ``batch`` images, an evaluation sees ``images``. ``targets`` are wanted of
    "train" and "evaluate": how many times a contender's time is allowed, or how many ``images_per_second``. A turn
    takes ``steps`` training steps. ``alone``, nothing is timed beside it: what is asked for are its sources.
    """

    name: str
    recipe: str
    stage: str
    batch: int
    images: int
    overrides: tuple[str, ...] = ()
    work: tuple[str, ...] = ("train", "evaluate")
    classes: int = 200
    side: int = 400
    steps: int = 1
    sources: tuple[str, ...] = ("memory", "jpeg")
    alone: bool = False
    targets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


# Methods whose training step is held to that of the plain networks that it consists of.
_MEASURED = ("SPA", "CI-CAM", "SPOL-seg", "PSOL", "BAS", "DANet", "EIL", "MEIL", "TAP", "ADL-TAP", "I2C")


def _case(name: str, recipe: str, stage: str, batch: int, images: int, **options) -> EndToEnd:
    rates = options.pop("rates", {})
    measured = name.split()[0] in _MEASURED
    # A linear head is nothing that evaluation could not be asked to hide; others are counted as network.
    forward = "backbone" if name.startswith("CAM") else "network"
    targets = {
        # TAP is part of its network; what it consists of is a mean.
        "train": {"classifier" if "TAP" in name else "network": TRAINING_OVERHEAD} if measured else {},
        "evaluate": {forward: EVALUATION_OVERHEAD},
    }
    for work, rate in rates.items():
        targets[work] = targets[work] | {"images_per_second": rate}
    return EndToEnd(name, recipe, stage, batch, images, targets=targets, **options)


_PLAIN = ("evaluate.ten_crop=false", "evaluate.center_crop=false")
_CAM = ("stage.method=cam", 'stage.model={head = "linear"}', "evaluate.protocol=wsolevaluation")


def _from_files(name: str, recipe: str, batch: int, images: int, **options) -> EndToEnd:
    """An evaluation of JPEG files, by each way to their pixels: the cores, the cache, the device's decoder."""
    options = {"sources": ("jpeg", "cache", "cuda")} | options
    targets = {"evaluate": {"images_per_second": 10000}}
    name = f"{name} from files"
    return EndToEnd(
        name, recipe, "localizer", batch, images, work=("evaluate",), alone=True, targets=targets, **options
    )


def _papers(
    batch: int, images: int, more: tuple[str, ...] = (), rates: Mapping[str, float] = {}, **options
) -> list[EndToEnd]:
    """The papers' networks at the papers' sizes; one forward ranks the classes and gives the map."""
    plain = (*_PLAIN, *more)
    spol = (*plain, "evaluate.classifier=cam", "evaluate.protocol=wsolevaluation")
    spa = ("stage.model.ram_start=0",)
    cases = [
        ("CAM VGG16", "spa_cub_vgg16", "localizer", {"overrides": (*plain, *_CAM), "rates": rates}),
        ("SPA VGG16", "spa_cub_vgg16", "localizer", {"overrides": (*plain, *spa), "rates": rates}),
        ("CI-CAM VGG16", "cicam_cub_vgg16", "localizer", {"overrides": plain}),
        ("BAS VGG16", "bas_cub_vgg16", "localizer", {"overrides": plain, "work": ("train",)}),
        ("SPOL-cam ResNet50", "spol_cub_resnet50", "cam", {"overrides": spol, "work": ("train",)}),
        ("SPOL-seg ResNet50", "spol_cub_resnet50", "seg", {"overrides": spol}),
    ]
    return [_case(*names, batch, images, **own | options) for *names, own in cases]


_SMALL = {
    "CAM": "cam",
    "SPA": "spa",
    "CI-CAM": "ci_cam",
    "NL-CCAM": "nl_ccam",
    "CSoA": "csoa",
    "HaS": "has",
    "CutMix": "cutmix",
    "ADL": "adl",
    "ACoL": "acol",
    "SPG": "spg",
    "BAS": "bas",
    "DANet": "danet_one_level",
}
_CAM_TRAINED_OTHERWISE = {
    "EIL": ("eil", "localizer"),
    "MEIL": ("meil", "localizer"),
    "TAP": ("tap", "localizer"),
    "ADL-TAP": ("adl_tap", "localizer"),
    "I2C": ("i2c", "i2c"),
}
_STARTED = {"SPA": ("stage.model.ram_start=0",)}


def _small(folder: str, network: str, batch: int, images: int, **options) -> list[EndToEnd]:
    """Every method on the network of the recipes in ``folder``."""
    there = _SMALL if folder == "cub50" else {name: _SMALL[name] for name in ("CAM", "SPA", "CI-CAM")}
    one = [
        _case(
            f"{name} {network}",
            f"{folder}/{recipe}",
            "localizer",
            batch,
            images,
            overrides=_STARTED.get(name, ()),
            **options,
        )
        for name, recipe in there.items()
    ]
    if folder == "cub50":
        # In evaluation they are CAM.
        one += [
            _case(f"{name} {network}", f"cub50/{recipe}", stage, batch, images, work=("train",), **options)
            for name, (recipe, stage) in _CAM_TRAINED_OTHERWISE.items()
        ]
    two = [
        _case(f"SPOL-cam {network}", f"{folder}/spol", "cam", batch, images, work=("train",), **options),
        _case(f"SPOL-seg {network}", f"{folder}/spol", "seg", batch, images, **options),
    ]
    boxes = "cub50" if folder == "cub50" else "demo_baselines"
    psol = _case(f"PSOL {network}", f"{boxes}/psol", "box", batch, images, **options)
    # Its plain step is that of two networks; a forward of boxes is PSOL's.
    gc_net = EndToEnd(
        f"GC-Net {network}",
        f"{boxes}/gc_net",
        "detector",
        batch,
        images,
        work=("train",),
        targets={"train": {"networks": TRAINING_OVERHEAD}},
        **options,
    )
    return [*one, *two, psol, gc_net]


CASES = {
    "cpu": [*_small("cub50", "MobileNetV2", 16, 64, classes=50), *_papers(2, 8)],
    # As many images as pass in some seconds; the rates are those of one H200.
    "cuda": [
        *_papers(256, 20480, _ON_GPU, {"train": 3500, "evaluate": 10000}, steps=10, sources=("memory",)),
        _from_files("CAM VGG16", "spa_cub_vgg16", 256, 8192, overrides=(*_PLAIN, *_CAM, *_ON_GPU)),
    ],
    "quick": [
        *_small("demo", "small network", 4, 16, classes=8, side=96),
        _from_files("CAM small network", "demo/cam", 4, 16, sources=("jpeg", "cache"), classes=8, side=96),
    ],
}


def recipe_of(case: EndToEnd, root: Path, device: str, trained: str | None) -> Recipe:
    """The case's recipe on the rendered images, without pretrained weights.

    Args:
        trained: the stage that will be trained; those before it, or all, are left as they start.
    """
    settings = ["data.name=ilsvrc", f"data.root={root}", "data.options={}", f"runtime.device={device}"]
    recipe = load_recipe(case.recipe, (*case.overrides, *settings, "runtime.workers=0"))
    # The contenders take what ours does.
    runtime = replace(recipe.runtime, amp=choose_amp(recipe.runtime.amp, torch.device(device)))
    recipe = replace(recipe, runtime=runtime)

    def prepared(stage: StageSpec) -> StageSpec:
        return replace(
            stage,
            epochs=stage.epochs if stage.name == trained else 0,
            batch_size=case.batch,
            num_classes=case.classes,
            backbone=replace(stage.backbone, weights="none"),
            optim=replace(stage.optim, lr=RATE),
        )

    stages = tuple(prepared(stage) for stage in recipe.stage)
    return replace(recipe, stage=stages, evaluate=replace(recipe.evaluate, batch_size=case.batch))


@contextlib.contextmanager
def rendered(case: EndToEnd) -> Iterator[tuple[Path, Path]]:
    """JPEG files in ImageNet's layout, and a folder for runs."""
    with tempfile.TemporaryDirectory() as folder:
        # A GPU sees the same ones again and again: rendering takes longer than looking.
        images = min(case.images, DISTINCT)
        root, runs = Path(folder, "data"), Path(folder, "runs")
        classes = min(case.classes, CLASSES)
        data.synth_imagenet(root, images=images, train_images=TURNS * case.batch, classes=classes, size=case.side)
        data.index("ilsvrc", root)
        yield root, runs


@torch.compiler.set_stance("force_eager")
@torch.no_grad()
def enliven(backbone: nn.Module, image: Tensor) -> None:
    """Give batch norms the statistics of a batch, or random weights would let deep features vanish."""
    was_training = backbone.training
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    backbone(image)
    backbone.train(was_training)
