"""Rules for the values of a recipe, beside their types."""

import dataclasses
import math
import re

from wsolfast.recipe._errors import RecipeError
from wsolfast.recipe._specs import OptimSpec, Recipe, ScheduleSpec, StageSpec, ValidateSpec

_RESERVED = {f.name for f in dataclasses.fields(StageSpec)}


def check(recipe: Recipe) -> None:
    """Raise a :class:`RecipeError` that names the key of a value out of range; variants are not looked at."""
    names = [stage.name for stage in recipe.stage]
    if not names:
        raise RecipeError(f"recipe {recipe.name}: no [[stage]]")
    for i, stage in enumerate(recipe.stage):
        _check_stage(stage, names[:i])
    for key in ("cache_gb", "device_cache_gb"):
        gigabytes = getattr(recipe.runtime, key)
        if gigabytes is not None and not gigabytes >= 0:
            raise RecipeError(f"runtime.{key}: expected 0 or more, got {gigabytes}")
    counts = {"evaluate.batch_size": (recipe.evaluate.batch_size, 1), "evaluate.topk": (recipe.evaluate.topk, 1)}
    counts |= {"runtime.workers": (recipe.runtime.workers, -1), "seed": (recipe.seed, 0)}
    for key, (count, least) in counts.items():
        if count < least:
            raise RecipeError(f"{key}: expected {least} or more, got {count}")
    places = [("data", recipe.data), *((f"stage.{stage.name}", stage) for stage in recipe.stage)]
    sides = [(f"{where}.{key}", getattr(table, key)) for where, table in places for key in ("resize", "crop")]
    for key, size in (*sides, ("evaluate.resize", recipe.evaluate.resize)):
        if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
            raise RecipeError(f"{key}: expected 1 px or more, got {size}")
    threshold = recipe.evaluate.threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise RecipeError(f"evaluate.threshold: expected a share in [0, 1], got {threshold}")
    if recipe.evaluate.ema is not None and all(stage.optim.ema is None for stage in recipe.stage):
        raise RecipeError("evaluate.ema: no stage averages its weights; leave it out, or set stage.optim.ema")
    if recipe.data.rand_augment is not None and any(stage.uses for stage in recipe.stage):
        raise RecipeError("data.rand_augment: moves pixels, which the maps of an earlier stage do not follow")


def _check_stage(stage: StageSpec, earlier: list[str]) -> None:
    where = f"stage.{stage.name}"
    if stage.name in _RESERVED or not re.fullmatch(r"\w[\w-]*", stage.name):
        raise RecipeError(f"stage name {stage.name!r}: use letters, digits and dashes, and none of {sorted(_RESERVED)}")
    if stage.name in earlier:
        raise RecipeError(f"stage.name: two stages are called {stage.name!r}")
    for batch_field, source in stage.uses.items():
        if source not in earlier:
            raise RecipeError(f"{where}.uses.{batch_field}: no earlier stage named {source!r}")
    for network, source in stage.networks.items():
        if source not in earlier:
            raise RecipeError(f"{where}.networks.{network}: no earlier stage named {source!r}")
    if stage.backbone.from_stage not in (None, *earlier):
        raise RecipeError(f"{where}.backbone.weights: no earlier stage named {stage.backbone.from_stage!r}")
    for key, value, least in (
        ("epochs", stage.epochs, 0),
        ("batch_size", stage.batch_size, 1),
        ("accumulate", stage.accumulate, 1),
        ("lr", stage.optim.lr, 0),
    ):
        if value < least:
            raise RecipeError(f"{where}.{key}: must not be negative{' or zero' * least}")
    rate = stage.backbone.drop_path
    if rate is not None and not 0 <= rate < 1:
        raise RecipeError(f"{where}.backbone.drop_path: expected a probability, at least 0 and below 1, got {rate}")
    _check_optim(stage.optim, f"{where}.optim")
    _check_schedule(stage.schedule, stage.epochs, f"{where}.schedule")
    if stage.validate is not None:
        if stage.epochs == 0:
            raise RecipeError(f"{where}.validate: nothing is trained in 0 epochs; leave it out")
        _check_validate(stage.validate, f"{where}.validate")


def _check_validate(spec: ValidateSpec, where: str) -> None:
    for key, value, least in (("every", spec.every, 1), ("patience", spec.patience, 0)):
        if value < least:
            raise RecipeError(f"{where}.{key}: expected {least} or more, got {value}")
    share = isinstance(spec.held_out, float)
    if not (0 < spec.held_out < 1 if share else spec.held_out >= 1):
        raise RecipeError(
            f"{where}.held_out: expected a number of images, or a share between 0 and 1, got {spec.held_out}"
        )
    if spec.split != "held_out" and spec.held_out != ValidateSpec.held_out:
        raise RecipeError(f"{where}.held_out: nothing is held out where split is {spec.split}; leave it out")
    if spec.select == "gt_known_loc" and not spec.boxes:
        raise RecipeError(
            f"{where}.select: gt_known_loc looks at boxes, which weakly supervised training does not have; choose "
            "accuracy or loss, or say boxes = true, which every table then marks"
        )
    if spec.boxes and spec.select != "gt_known_loc":
        raise RecipeError(f"{where}.boxes: {spec.select} looks at no box; leave it out, or select by gt_known_loc")
    if spec.boxes and spec.split != "train_fullsup":
        raise RecipeError(f"{where}.split: the images of train_weaksup have no boxes; choose train_fullsup")


def _check_optim(optim: OptimSpec, where: str) -> None:
    if optim.layer_decay is not None and not 0 < optim.layer_decay <= 1:
        raise RecipeError(f"{where}.layer_decay: expected more than 0 and at most 1, got {optim.layer_decay}")
    if optim.grad_clip is not None and not 0 < optim.grad_clip < math.inf:
        raise RecipeError(f"{where}.grad_clip: expected a norm, more than 0, got {optim.grad_clip}")
    if optim.ema is not None and not 0 < optim.ema < 1:
        raise RecipeError(f"{where}.ema: expected a decay between 0 and 1, such as 0.999, got {optim.ema}")
    if optim.nesterov and optim.name == "adamw":
        raise RecipeError(f"{where}.nesterov: belongs to sgd, adamw has none; set it to false")


def _check_schedule(schedule: ScheduleSpec, epochs: int, where: str) -> None:
    if schedule.warmup_epochs is not None and schedule.warmup_steps:
        raise RecipeError(f"{where}: warmup_steps and warmup_epochs say the same thing; give one of them")
    if (schedule.warmup_epochs or 0) < 0 or schedule.warmup_steps < 0:
        raise RecipeError(
            f"{where}: a warm-up takes 0 steps or more, got {schedule.warmup_epochs or schedule.warmup_steps}"
        )
    if schedule.min_factor is not None and schedule.name != "cosine":
        raise RecipeError(f"{where}.min_factor: only cosine has one, {schedule.name} does not; leave it out")
    if not 0 <= (schedule.min_factor or 0) <= 1:
        raise RecipeError(f"{where}.min_factor: expected a share of the rate, 0 to 1, got {schedule.min_factor}")
    if schedule.name == "cosine" and schedule.milestones:
        raise RecipeError(f"{where}.milestones: cosine has none; set them to []")
    if schedule.name == "compound_linear" and not (
        len(schedule.milestones) == 1
        and schedule.milestones[0] >= 0
        and (schedule.milestones[0] < epochs or not epochs)
    ):
        raise RecipeError(
            f"{where}.milestones: compound_linear takes one, the epoch of {epochs} from which on the rate falls, "
            f"got {list(schedule.milestones)}"
        )
    if schedule.name == "exponential" and (isinstance(schedule.gamma, tuple) or schedule.milestones):
        raise RecipeError(f"{where}: exponential takes one gamma and no milestones")
    if isinstance(schedule.gamma, tuple) and len(schedule.gamma) != len(schedule.milestones):
        raise RecipeError(
            f"{where}.gamma: expected one number or {len(schedule.milestones)}, one per milestone, "
            f"got {len(schedule.gamma)}"
        )
