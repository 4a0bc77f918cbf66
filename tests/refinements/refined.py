"""Methods of the demo recipes on small images, and what each refinement does with them; built once."""

import functools

import torch
from torch import Tensor

from wsolfast import backbones
from wsolfast.engine.demo import demo_recipes
from wsolfast.methods import Method, Refined, get_stage, list_stages
from wsolfast.recipe import load_recipe
from wsolfast.refinements import list_refinements
from wsolfast.types import Batch

NUM_CLASSES = 4
# Options that make a refinement do something in a network that nothing has trained.
OPTIONS: dict[str, dict[str, object]] = {
    "sem": {"seeds": 5},
    "ccam": {"gamma": "linear"},
    "scg": {"layers": ["conv5"], "delta_h": 0.5, "delta_l": 0.2},
}
# Boxes are refused by all of them: tests/methods/test_gives_boxes.py.
STAGES = [stage for stage in list_stages() if not get_stage(stage).gives_boxes]
# What starts from a class's score makes no sense behind a map of no class; these do not.
CLASSLESS = ("feature_norm", "scg", "sem")
NONSENSE = {
    (stage, name)
    for stage in STAGES
    for name in list_refinements()
    if not get_stage(stage).classifies and name not in CLASSLESS
}
# These read a class's score elsewhere than at the last stage, where gradient maps are made unless a layer is given.
ELSEWHERE = {("class_attention", name) for name in list_refinements() if name not in CLASSLESS}
PAIRS = [(stage, name) for stage in STAGES for name in list_refinements() if (stage, name) not in NONSENSE | ELSEWHERE]
# These train CAM's network in other ways; what they are in evaluation is CAM's class.
LIKE_CAM = ("cutmix", "has")


@functools.cache
def _demo_stages() -> dict[str, object]:
    recipes = [load_recipe(name) for name in demo_recipes(baselines=True)]
    return {stage.method: stage for recipe in recipes for stage in recipe.stage}


def build(stage: str, *, dtype: torch.dtype = torch.float64, **options: object) -> Method:
    """Build a method as its demo recipe does, in evaluation mode; in double precision rounding plays no role."""
    torch.manual_seed(0)
    spec = _demo_stages()[stage]
    backbone = backbones.build(spec.backbone.name, layout=spec.backbone.layout, input_size=64)
    net = get_stage(stage)(backbone, NUM_CLASSES, **spec.model | options).eval().requires_grad_(False)
    # Without a look at images of each class a method that is fitted has no maps.
    for label in range(NUM_CLASSES) if net.fits else ():
        sums = net.fit_batch(Batch(images(), torch.full((3,), label), ("a", "b", "c")), {}, 0)
        net.keep_class(label, net.fit_class(sums)[0])
    # What is in double precision whatever the network is stays so.
    return net.double() if dtype == torch.float64 else net


built = functools.cache(build)


def refined(stage: str, name: str, **options: object) -> Refined:
    """Put the refinement ``name`` behind the method ``stage``."""
    return behind(built(stage), name, **options)


def behind(net: Method, name: str, **options: object) -> Refined:
    """Put the refinement ``name`` behind a method."""
    own = OPTIONS.get(name, {}) | ({"layers": [net.last_stage]} if name == "scg" else {})
    return Refined(net, name, **own | options)


def images(count: int = 3) -> Tensor:
    """Make images that are wider than high."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, 32, 48), dtype=torch.uint8, generator=generator)


LABEL = torch.tensor([2, 0, 3])


@functools.cache
def maps_of(stage: str, name: str) -> Tensor:
    """Compute the maps of three images, each of its label and of the two most likely classes."""
    return refined(stage, name).localize(images(), LABEL, topk=2).localization_map
