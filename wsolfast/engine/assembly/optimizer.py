"""Optimizers of a recipe, and the learning rate at every step."""

import math
from typing import Any

import torch
from torch import nn

from wsolfast._compat import without_compiler
from wsolfast._nearest import nearest
from wsolfast.backbones import BackboneError
from wsolfast.methods import Method
from wsolfast.recipe import OptimSpec, RecipeError, ScheduleSpec
from wsolfast.types import ParamGroup


def build_optimizer(method: Method, spec: OptimSpec, where: str, *, fused: bool = False) -> torch.optim.Optimizer:
    """Build the optimizer over the method's parameter groups; each group keeps its rate factor as ``lr_factor``.

    A factor of 0 freezes its group: no gradient is computed for it. AdamW decays matrices and kernels alone: neither
    vectors and scalars, which biases and norms have, nor what the backbone names, such as position embeddings. For this
    and for ``layer_decay`` the method's groups are split.

    Args:
        method: gives the groups.
        spec: ``[stage.optim]``.
        where: what an error calls the table.
        fused: move all parameters in one kernel.

    Raises:
        RecipeError: if a factor names no group, every group is frozen, or the backbone has no layers to tell apart.
    """
    groups = method.param_groups()
    names = [group.name for group in groups]
    standard = [f"{owner}_{kind}" for owner in ("backbone", "head") for kind in ("weight", "bias")]
    for name in spec.lr_factors:
        if name not in names + standard:
            raise RecipeError(f"unknown key {f'{where}.lr_factors.{name}'!r}; {nearest(name, names)}")
    layers = {} if spec.layer_decay is None else _layer_factors(method, spec.layer_decay, where)
    exempt = _exempt_from_decay(method) if spec.name == "adamw" else frozenset[nn.Parameter]()
    trained: list[dict[str, Any]] = []
    for group in groups:
        factor = spec.lr_factors.get(group.name, 1.0)
        if factor == 0:
            for parameter in group.params:
                parameter.requires_grad_(False)
        else:
            trained += _split(group, factor, layers, exempt)
    if not trained:
        raise RecipeError(f"{where}.lr_factors: every group is frozen, nothing is left to train")
    shared: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay, "fused": True if fused else None}
    if spec.name == "adam":
        return without_compiler(torch.optim.Adam)(trained, betas=spec.betas, **shared)
    if spec.name == "adamw":
        return without_compiler(torch.optim.AdamW)(trained, betas=spec.betas, **shared)
    return without_compiler(torch.optim.SGD)(trained, momentum=spec.momentum, nesterov=spec.nesterov, **shared)


def _split(
    group: ParamGroup, factor: float, layers: dict[nn.Parameter, tuple[str, float]], exempt: frozenset[nn.Parameter]
) -> list[dict[str, Any]]:
    """Split a group by the layers of its parameters, and into those that decay and those that do not."""
    parts: dict[str, dict[str, Any]] = {}
    for parameter in group.params:
        layer, of_layer = layers.get(parameter, ("", 1.0))
        kept = {"weight_decay": 0.0} if parameter in exempt else {}
        name = group.name + layer + "/no_decay" * bool(kept)
        part = parts.setdefault(name, {"params": [], "lr_factor": factor * of_layer, "name": name} | kept)
        part["params"].append(parameter)
    return list(parts.values())


def _exempt_from_decay(method: Method) -> frozenset[nn.Parameter]:
    named = {f"backbone.{name}" for name in method.backbone.no_weight_decay()}
    return frozenset(
        parameter
        for name, parameter in method.named_parameters()
        if parameter.ndim <= 1 or name.rpartition(".")[2] == "bias" or name in named
    )


def _layer_factors(method: Method, decay: float, where: str) -> dict[nn.Parameter, tuple[str, float]]:
    """Return the layer and the rate factor of every parameter of the backbone; the head's is 1."""
    try:
        layers = method.backbone.parameter_layers()
    except BackboneError as error:
        raise RecipeError(f"{where}.layer_decay: {error}") from None
    count = 1 + max(layers.values())
    own = dict(method.backbone.named_parameters())
    return {own[name]: (f"/layer{layer}", decay ** (count - layer)) for name, layer in layers.items()}


def rate_at(schedule: ScheduleSpec, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the factor of the base learning rate at a step.

    Args:
        schedule: ``[stage.schedule]``.
        step: 0-based, over the stage.
        steps_per_epoch, epochs: of the stage.
    """
    epoch, factor = step // max(1, steps_per_epoch), 1.0
    if schedule.name in ("step", "poly"):
        given = schedule.gamma
        gammas = given if isinstance(given, tuple) else (given,) * len(schedule.milestones)
        for milestone, gamma in zip(schedule.milestones, gammas, strict=True):
            factor *= gamma if epoch >= milestone else 1.0
    if schedule.name == "exponential" and not isinstance(schedule.gamma, tuple):
        factor = schedule.gamma**epoch
    if schedule.name == "poly":
        progress = epoch / epochs if schedule.by_epoch else step / max(1, steps_per_epoch * epochs)
        factor *= (1 - progress) ** schedule.power
    if schedule.name == "compound_linear":
        (start,) = schedule.milestones
        factor = math.prod((epochs - past) / (epochs - start) for past in range(start, epoch + 1))
    warmup = schedule.warmup_steps
    if schedule.warmup_epochs is not None:
        warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.name == "cosine":
        after = max(0, step - warmup) / max(1, steps_per_epoch * epochs - warmup)
        least = schedule.min_factor or 0.0
        wave = 0.5 + 0.5 * math.cos(math.pi * (epoch / epochs if schedule.by_epoch else after))
        factor = least + (1 - least) * wave
    return factor * min(1.0, (step + 1) / warmup) if warmup else factor
