"""A run folder for a network that is taken as it is, with weights from a file, from torchvision or from timm."""

import filecmp
import functools
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsolfast.backbones import class_names_of
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.engine.assembly.weights import settle_weights
from wsolfast.engine.run.distributed import from_first, on_first
from wsolfast.engine.run.errors import MissingError, UsageError
from wsolfast.engine.run.run_folder import RunFolder, write_bytes
from wsolfast.recipe import BackboneSpec, Recipe, dump_recipe, load_recipe, parse_recipe

_TIMM = "timm:"


def recipe_of(target: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that ``target`` names, or that of a timm network as it is.

    Args:
        target: name or file of a recipe, or ``timm:<name>``. A timm network whose classifier reads its class token is
            localised by that token's attention, one whose classifier reads the mean of its features by CAM, and any
            other by HiResCAM through its own head.
        overrides: ``key=value`` for the recipe.

    Raises:
        RecipeError: if there is no such recipe, or an override does not fit it.
        BackboneError: if timm has no such network.
        UsageError: if the network does not classify.
    """
    if not target.startswith(_TIMM):
        return load_recipe(target, overrides)
    from wsolfast.backbones._timm import pretrained_head

    config, reads = pretrained_head(target.removeprefix(_TIMM))
    if not config["num_classes"]:
        raise UsageError(
            f"{target}: its weights have no classifier, so nothing says what to look for; train a method on this "
            "network, or choose one that classifies, such as timm:resnet50"
        )
    base = load_recipe("imagenet/resnet50")
    (stage,) = base.stage
    side = config["input_size"][-1]
    localized: dict[str, Any] = {
        "class token": {"method": "class_attention", "model": {"head": "pretrained"}},
        "mean": {"method": "cam", "model": {"head": "pretrained", "cam_relu": True}},
        "own head": {"method": "wsolfast.methods:WholeNetwork", "model": {}},
    }
    own = reads == "own head"
    stage = replace(
        stage,
        num_classes=config["num_classes"],
        backbone=BackboneSpec(target, layout="whole" if own else None, weights="pretrained"),
        **localized[reads],
    )
    recipe = replace(
        base,
        name=target.replace(":", "/"),
        summary=f"timm's {target.removeprefix(_TIMM)} as it is: localises photos without training",
        data=replace(base.data, resize=math.floor(side / config["crop_pct"]), crop=side),
        stage=(stage,),
        evaluate=replace(base.evaluate, post="hires_cam" if own else "none"),
    )
    return parse_recipe(dump_recipe(recipe), recipe.name, overrides)


def adopt(path: Path, recipe: Recipe, weights: Path | None, *, exist_ok: bool = False) -> RunFolder:
    """Make the run folder at ``path`` for ``recipe`` with ``weights``, or open the one of this recipe that is there.

    Args:
        weights: a trained run's ``model.safetensors``, which is copied, or a network's weights, to which the recipe's
            ``stage.backbone.weights`` is set; None evaluates what the recipe names.

    Raises:
        UsageError: if the recipe has to be trained first, or ``path`` holds another run, or one with other weights.
        MissingError: if there is no such file.
    """
    recipe = recipe if weights is not None else settle_weights(recipe)
    stage = localizer_of(recipe).stage
    if weights is not None and not weights.is_file():
        raise MissingError(f"no weights at {weights}; give the path of an existing file")
    whole = weights is not None and _is_whole_model(weights)
    names: tuple[str, ...] = ()
    if not whole:
        names = class_names_of(stage.backbone.weights, stage.backbone.name)
        if stage.epochs > 0:
            given = f"{weights} holds no trained method" if weights else "it has no weights yet"
            raise UsageError(
                f"recipe {recipe.name} is to be trained and {given}: wsolfast train {recipe.name}, "
                "or give --weights a trained run's model.safetensors"
            )
        if weights is not None:
            backbone = replace(stage.backbone, weights=str(weights.resolve()))
            changed = (replace(stage, backbone=backbone) if other is stage else other for other in recipe.stage)
            recipe = replace(recipe, stage=tuple(changed))
    if from_first((path / "recipe.toml").is_file()) and not exist_ok:
        run = RunFolder(path)
        if replace(run.recipe, runtime=recipe.runtime, evaluate=recipe.evaluate) != recipe:
            raise UsageError(f"{path} holds another run; choose another --name, or replace it with --exist-ok")
    else:
        run = RunFolder.create(path, recipe, exist_ok=exist_ok, reads=[] if weights is None else [weights])
        if names and len(names) == stage.num_classes:
            on_first(lambda: run.keep_class_names(names))
    if whole and weights is not None:
        on_first(functools.partial(_copy, weights, run.weights_path(stage.name, best=stage.takes_best), path))
    return run


def _copy(weights: Path, target: Path, run: Path) -> None:
    if target.exists():
        if not filecmp.cmp(weights, target, shallow=False):
            raise UsageError(f"{run} holds other weights; choose another --name, or replace it with --exist-ok")
        return
    with weights.open("rb") as source:
        write_bytes(target, functools.partial(shutil.copyfileobj, source))


def _is_whole_model(weights: Path) -> bool:
    """Return True if a file holds the weights of a method, whose name is in its header, not of a backbone alone."""
    if weights.suffix != ".safetensors":
        return False
    import safetensors

    try:
        with safetensors.safe_open(weights, "pt") as file:
            return "method" in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise MissingError(f"{weights}: not readable as safetensors ({error})") from None
