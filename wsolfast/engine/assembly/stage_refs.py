"""Roles of the stages in evaluation: one network gives the maps, the same or another one ranks the classes."""

from dataclasses import dataclass
from pathlib import Path

from wsolfast import methods
from wsolfast._nearest import nearest
from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.methods import Method
from wsolfast.recipe import Recipe, RecipeError, StageSpec


@dataclass(frozen=True)
class StageRef:
    """A stage and the recipe that it stands in."""

    recipe: Recipe
    stage: StageSpec
    run: RunFolder | None = None  # where its weights are; None: in the run at hand

    @property
    def resize(self) -> int | tuple[int, int] | None:
        """Size that the stage's training images are warped to."""
        return self.recipe.data.resize if self.stage.resize is None else self.stage.resize

    @property
    def crop(self) -> int | None:
        """Side of the stage's training crop."""
        return self.recipe.data.crop if self.stage.crop is None else self.stage.crop

    @property
    def crop_area(self) -> tuple[float, float] | None:
        """Shares of the area that the stage's training crops are taken from."""
        return self.recipe.data.crop_area if self.stage.crop_area is None else self.stage.crop_area

    def weights_in(self, run: RunFolder) -> Path:
        """Return the file of the stage's weights: the best or the last ones, as the stage says.

        Where an average of the weights is kept, both are averages; ``evaluate.ema = false`` asks for the last weights
        themselves.

        Args:
            run: the run at hand; a stage of another run has its own.
        """
        holder = self.run or run
        if self.recipe.evaluate.ema is False and self.stage.optim.ema is not None:
            return holder.raw_weights_path(self.stage.name)
        return holder.weights_path(self.stage.name, best=self.stage.takes_best)


def localizer_of(recipe: Recipe) -> StageRef:
    """Return the stage whose maps are measured: ``evaluate.localizer``, else the last that is not the classifier.

    Raises:
        RecipeError: if there is no stage of that name.
    """
    wanted, classifier = recipe.evaluate.localizer, recipe.evaluate.classifier
    for stage in reversed(recipe.stage):
        if stage.name == wanted or (wanted is None and (stage.name != classifier or len(recipe.stage) == 1)):
            return StageRef(recipe, stage)
    names = [stage.name for stage in recipe.stage]
    raise RecipeError(f"evaluate.localizer: no stage {wanted!r}; {nearest(str(wanted), names)}")


def classifier_of(recipe: Recipe) -> StageRef | None:
    """Return the network that ranks the classes: ``evaluate.classifier``, a stage or the folder of a run.

    Without one, a localiser that does not classify leaves it to the last stage that does.

    Returns:
        None if the localiser ranks them itself.

    Raises:
        RecipeError: if that stage, or that run, does not classify.
        MissingError: if it is neither a stage nor the folder of a run.
    """
    localizer, wanted = localizer_of(recipe).stage, recipe.evaluate.classifier
    able = [stage for stage in recipe.stage if classifies(stage)]
    if wanted is None:
        if classifies(localizer):
            return None
        if not able:
            raise RecipeError(
                f"evaluate.classifier: stage {localizer.name!r} does not classify; name a run folder that does"
            )
        return StageRef(recipe, able[-1])
    named = next((stage for stage in recipe.stage if stage.name == wanted), None)
    if named is not None:
        if named not in able:
            raise RecipeError(f"evaluate.classifier: stage {wanted!r} does not classify")
        return None if named is localizer else StageRef(recipe, named)
    if not Path(wanted).is_dir():
        raise MissingError(f"evaluate.classifier: neither a stage ({_names(recipe)}) nor a run folder: {wanted!r}")
    run = RunFolder(wanted)
    stage = localizer_of(run.recipe).stage
    if not classifies(stage):
        raise RecipeError(f"evaluate.classifier: {wanted}: its stage {stage.name!r} does not classify")
    return StageRef(run.recipe, stage, run)


def classifies(stage: StageSpec) -> bool:
    """Return whether the stage's method tells classes apart.

    Raises:
        RecipeError: if there is no such method.
    """
    return method_class(stage).classifies


def gives_boxes(stage: StageSpec) -> bool:
    """Return whether the stage's method answers with boxes instead of maps.

    Raises:
        RecipeError: if there is no such method.
    """
    return method_class(stage).gives_boxes


def fits(stage: StageSpec) -> bool:
    """Return whether one pass over the images fits the stage's method, without a gradient.

    Raises:
        RecipeError: if there is no such method.
    """
    return method_class(stage).fits


def method_class(stage: StageSpec) -> type[Method]:
    """Return the class of the stage's method.

    Raises:
        RecipeError: if there is no such method.
    """
    try:
        return methods.get_stage(stage.method)
    except KeyError as error:
        raise RecipeError(f"stage.{stage.name}.method: {error.args[0]}") from None


def _names(recipe: Recipe) -> str:
    return ", ".join(stage.name for stage in recipe.stage)
