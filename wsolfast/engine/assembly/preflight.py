"""Checks of a whole recipe before anything runs: what is built or measured hours later, and what is not used at all."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from wsolfast import refinements
from wsolfast._nearest import nearest
from wsolfast.engine.assembly.build import build_method, classifier_view, eval_view, refine
from wsolfast.engine.assembly.checkpoint import misfits, part_of
from wsolfast.engine.assembly.optimizer import build_optimizer
from wsolfast.engine.assembly.stage_refs import classifier_of, classifies, fits, gives_boxes, localizer_of
from wsolfast.engine.assembly.weights import find_weights
from wsolfast.engine.run.errors import MissingError
from wsolfast.methods import Method
from wsolfast.recipe import Recipe, RecipeError, StageSpec, as_measured

_FILES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")


def check_recipe(recipe: Recipe) -> None:
    """Look at all names of a recipe and of its variants, used or not; nothing is opened or built.

    Raises:
        RecipeError: that names the key, and the name that is nearest to what it says.
        MissingError: if the classifier is neither a stage nor a run.
    """
    for stage in recipe.stage:
        if fits(stage):
            _check_fitted(stage)
        if stage.validate is not None and not classifies(stage):
            raise RecipeError(
                f"stage.{stage.name}.validate: {stage.method} does not classify, so it cannot be validated by labels; "
                "leave it out"
            )
    for name in ("", *(variant.name for variant in recipe.variant)):
        spec = dataclasses.replace(recipe.evaluate, variant=name)
        _check_evaluation(as_measured(dataclasses.replace(recipe, evaluate=spec)))


def check_stages(recipe: Recipe, num_classes: int, current: StageSpec, method: Method) -> None:
    """Build what comes after a stage without memory for its weights: later stages, their optimizers, the refinement.

    Args:
        recipe: to look at.
        num_classes: of the data set.
        current: the stage that is to be trained.
        method: of that stage.

    Raises:
        RecipeError: if a stage, its optimizer or the refinement cannot be built as the recipe says, or a stage differs
            from the one that it starts from.
        MissingError: if the weights that a stage starts from are a file that is not there.
    """
    networks = {current.name: method}
    with torch.device("meta"):
        for stage in recipe.stage[recipe.stage.index(current) + 1 :]:
            weights = find_weights(stage.backbone.weights, recipe.data.root)
            if weights.endswith(_FILES) and not Path(weights).expanduser().is_file():
                raise MissingError(f"stage.{stage.name}.backbone.weights: no weights at {weights}")
            networks[stage.name] = build_method(recipe, stage, num_classes, pretrained=False)
            _check_start(stage, networks)
            check_networks(recipe, stage, networks[stage.name], num_classes)
            if not fits(stage):
                build_optimizer(networks[stage.name], stage.optim, f"stage.{stage.name}.optim")
        spec, localizer = recipe.evaluate, localizer_of(recipe).stage
        for post in {spec.post, *spec.refinements} - {"none"}:
            if localizer.name not in networks:
                networks[localizer.name] = build_method(recipe, localizer, num_classes, pretrained=False)
            refine(networks[localizer.name], dataclasses.replace(spec, post=post))


def _check_start(stage: StageSpec, networks: Mapping[str, Method]) -> None:
    source, method = stage.backbone.from_stage, networks[stage.name]
    if source is not None and source in networks:
        given = networks[source].state_dict()
        for part in method.starts_with:
            wrong = misfits(part_of(given, part), method.get_submodule(part))
            if wrong:
                raise RecipeError(
                    f"stage.{stage.name}.backbone.weights: the {part} of stage {source!r} does not fit at {len(wrong)} "
                    f"tensors, first {wrong[0]!r}; give both stages the same backbone and model options"
                )


def check_networks(recipe: Recipe, stage: StageSpec, method: Method, num_classes: int) -> None:
    """Look whether a stage names the earlier stages whose networks its method trains with.

    Args:
        recipe: has them.
        stage: one of its stages.
        method: of that stage.
        num_classes: of the data set.

    Raises:
        RecipeError: if a network is missing or too much, ranks no classes, or others than the stage.
    """
    where = f"stage.{stage.name}.networks"
    for name in method.networks:
        if name not in stage.networks:
            raise RecipeError(
                f"{where}: {stage.method} trains with a frozen {name!r}; name the earlier stage that it is of, "
                f'networks = {{{name} = "STAGE"}}'
            )
    for name, source in stage.networks.items():
        if name not in method.networks:
            known = nearest(name, method.networks) if method.networks else "it takes none"
            raise RecipeError(f"{where}.{name}: {stage.method} takes no such network; {known}")
        (earlier,) = [one for one in recipe.stage if one.name == source]
        if name == "classifier" and not classifies(earlier):
            raise RecipeError(f"{where}.{name}: stage {source!r} does not classify")
        knows, wanted = (one.num_classes or num_classes for one in (earlier, stage))
        if name == "classifier" and knows != wanted:
            raise RecipeError(f"{where}.{name}: stage {source!r} knows {knows} classes, expected {wanted}")


def _check_fitted(stage: StageSpec) -> None:
    where, usual = f"stage.{stage.name}", StageSpec(stage.name, stage.method, 1, stage.backbone)
    if stage.epochs > 1:
        raise RecipeError(f"{where}.epochs: {stage.method} is fitted in one pass, expected 1, got {stage.epochs}")
    if stage.backbone.drop_path is not None:
        raise RecipeError(f"{where}.backbone.drop_path: {stage.method} is fitted and drops nothing; leave it out")
    for key in ("accumulate", "sync_bn", "crop", "crop_area", "uses", "networks", "optim", "schedule", "validate"):
        if getattr(stage, key) != getattr(usual, key):
            raise RecipeError(
                f"{where}.{key}: {stage.method} is fitted to whole images without a gradient and has no use for it; "
                "leave it out"
            )


def _check_evaluation(recipe: Recipe) -> None:
    spec = recipe.evaluate
    eval_view(recipe)
    localizer = localizer_of(recipe).stage
    # One that cannot tell classes may be trained before the run that ranks them for it.
    if spec.classifier is not None or classifies(localizer):
        classifier_of(recipe)
        classifier_view(recipe)
    known = refinements.list_refinements()
    if spec.post not in ("none", *known):
        raise RecipeError(f"evaluate.post: no refinement named {spec.post!r}; {nearest(spec.post, ['none', *known])}")
    if spec.post != "none" and gives_boxes(localizer):
        raise RecipeError(
            f"evaluate.post: {localizer.method} gives boxes and no maps, which {spec.post} could refine; leave it out"
        )
    for name, options in spec.refinements.items():
        if name not in known:
            keys = [field.name for field in dataclasses.fields(spec) if field.name != "refinements"]
            raise RecipeError(f"unknown key {f'evaluate.{name}'!r}; {nearest(name, [*keys, *known])}")
        for key in options:
            if key not in refinements.options_of(name):
                hint = nearest(key, refinements.options_of(name))
                raise RecipeError(f"unknown key {f'evaluate.{name}.{key}'!r}; {hint}")
