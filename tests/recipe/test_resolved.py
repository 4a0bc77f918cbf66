"""Every recipe means what it meant at 6465ab1, before recipes named what they start from.

Recipes may gain variants, which change neither a training nor a measurement that was there; NEW_VARIANTS lists them.
CHANGED and ADDED list what means something else on purpose.
"""

import json
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from wsolfast.recipe import dump_recipe, list_recipes, load_recipe

# ``lines`` holds every "key = value" once, and ``recipes`` the numbers of the lines of each. Never write it anew.
_RECORD = json.loads(Path(__file__).with_name("resolved_at_6465ab1.json").read_text(encoding="utf-8"))
RECORD = {name: [_RECORD["lines"][i] for i in numbers] for name, numbers in _RECORD["recipes"].items()}

# A key that is renamed or moved gets a line here: the dotted key of the record, the dotted key of today. A stage's
# name is left out, as in ``"stage.model.delta_h": "stage.model.scg.delta_h"``; settings of variants follow.
RENAMED = {
    # SPA's refinement is a table with the names of evaluate.scg, and a switch beside it.
    "stage.model.scg": "stage.model.refine",
    "stage.model.layers": "stage.model.scg.layers",
    "stage.model.hsc_variant": "stage.model.scg.variant",
    "stage.model.relu_first": "stage.model.scg.relu_first",
    "stage.model.fo_th": "stage.model.scg.fo_th",
    "stage.model.so_th": "stage.model.scg.so_th",
    "stage.model.so_weight": "stage.model.scg.so_weight",
    "stage.model.delta_h": "stage.model.scg.delta_h",
    "stage.model.delta_l": "stage.model.scg.delta_l",
    "stage.model.scg_post": "stage.model.scg.post",
    "stage.model.resize_roundtrip": "stage.model.scg.resize_roundtrip",
    "evaluate.scg.hsc_variant": "evaluate.scg.variant",
}


# Values that are others today, by the names of the recipes and the line of the record, with the line of today.
CHANGED = {
    # bfloat16 only where the device is fast at it. What was measured with it says so in its results.
    ("cub50/*", 'runtime.amp = "bf16"'): 'runtime.amp = "auto"',
    ("pets3/*", 'runtime.amp = "bf16"'): 'runtime.amp = "auto"',
    # Its maps draw boxes around the whole picture: bench/results/first_picture.json.
    ("imagenet/squeezenet", 'evaluate.post = "none"'): 'evaluate.post = "scg"',
    (
        "imagenet/squeezenet",
        'summary = "torchvision\'s ImageNet SqueezeNet 1.1 as it is, CAM: 5 MB that localise photos"',
    ): 'summary = "torchvision\'s ImageNet SqueezeNet 1.1 as it is, CAM refined by SCG: 5 MB that localise photos"',
}

# Keys that came with these values, by the names of the recipes.
ADDED = {"imagenet/squeezenet": ("evaluate.threshold", "evaluate.scg.")}

# Variants that came later, by the names of the recipes.
_SEM_TO_FEATURE_NORM = ("sem", "sem_15", "nwc", "ccam", "grad_cam_pp", "bagcams", "backprop", "feature_norm")
NEW_VARIANTS = {
    "cub50/cam": _SEM_TO_FEATURE_NORM,
    "pets3/cam": _SEM_TO_FEATURE_NORM,
    # The regularisers had none.
    **{f"cub50/{name}": ("scg", *_SEM_TO_FEATURE_NORM) for name in ("acol", "adl", "cutmix", "has", "spg")},
    **{
        f"ilsvrc400/{name}": ("sem", "sem_share", "nwc", "ccam", "grad_cam_pp", "bagcams", "backprop")
        for name in ("mobilenet_v2", "squeezenet")
    },
    # SPA's Table 3.
    **{
        f"wsolevaluation/{name}_ilsvrc_inception": ("plain", "sem", "scg")
        for name in ("acol", "adl", "cam", "cutmix", "has", "spg")
    },
}


def flatten(table, path=""):
    """``stage.NAME.key`` and value of everything in a table."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{path}{key}.")
        elif value and isinstance(value, list) and isinstance(value[0], dict):
            yield f"{path}{key}", [item["name"] for item in value]
            for item in value:
                yield from flatten(item, f"{path}{key}.{item['name']}.")
        else:
            yield f"{path}{key}", value


def lines_of(recipe):
    return {f"{key} = {json.dumps(value)}" for key, value in flatten(tomllib.loads(dump_recipe(recipe)))}


def without_variants(recipe, names):
    assert set(names) <= {variant.name for variant in recipe.variant}
    return replace(recipe, variant=tuple(variant for variant in recipe.variant if variant.name not in names))


def renamed(line, stages):
    """The line with the key of today."""
    key, _, value = line.partition(" = ")
    if key.startswith("variant.") and key.endswith(".set"):
        settings = [setting.partition("=") for setting in json.loads(value)]
        return f"{key} = {json.dumps([f'{_today(old, stages)}={text}' for old, _, text in settings])}"
    return f"{_today(key, stages)} = {value}"


def _today(key, stages):
    head, _, rest = key.partition(".")
    name, _, inside = rest.partition(".")
    if head != "stage" or name not in stages:
        return RENAMED.get(key, key)
    return RENAMED.get(f"stage.{inside}", f"stage.{inside}").replace("stage.", f"stage.{name}.", 1)


@pytest.mark.parametrize("name", RECORD)
def test_a_recipe_means_what_it_meant(name):
    assert name in list_recipes()
    recipe = without_variants(load_recipe(name), NEW_VARIANTS.get(name, ()))
    stages = [stage.name for stage in recipe.stage]
    changed = {old: new for (names, old), new in CHANGED.items() if fnmatch(name, names)}
    assert changed.keys() <= set(RECORD[name])
    before = {renamed(changed.get(line, line), stages) for line in RECORD[name]}
    now = {line for line in lines_of(recipe) if not line.startswith(ADDED.get(name, ("\0",)))}
    assert sorted(before - now) == sorted(now - before) == [], "the first were, the second are"


def test_the_record_holds_every_recipe_of_then():
    assert len(RECORD) == 168
    assert NEW_VARIANTS.keys() <= RECORD.keys()


def test_renamed_keys_reach_stages_and_the_settings_of_variants():
    assert renamed("stage.loc.model.delta_h = 0.1", ["loc"]) == "stage.loc.model.scg.delta_h = 0.1"
    assert renamed("evaluate.scg.delta_h = 0.1", ["loc"]) == "evaluate.scg.delta_h = 0.1"
    line = 'variant.a.set = ["stage.model.delta_h=0.1", "stage.loc.model.delta_h=0.2"]'
    assert renamed(line, ["loc"]) == line.replace("delta", "scg.delta")
