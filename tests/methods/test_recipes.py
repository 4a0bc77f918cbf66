"""Every recipe that comes with the package can be built."""

from dataclasses import replace

import pytest
import torch

from wsolfast.engine.assembly.build import build_method, eval_protocol, refine
from wsolfast.engine.assembly.optimizer import build_optimizer
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.recipe import as_measured, list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_builds(name, monkeypatch):
    # Without memory there are no values.
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda tensor, **_: tensor)
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)
    recipe = load_recipe(name)
    eval_protocol(recipe)
    for stage in recipe.stage:
        if stage.backbone.name.startswith("timm:"):
            pytest.importorskip("timm", reason="the recipe's network comes from timm")
        if stage.model.get("head") == "pretrained":
            # Its head comes with the weights, which are not here.
            stage.model["head"] = "linear"
        with torch.device("meta"):
            method = build_method(recipe, stage, stage.num_classes or 30, pretrained=False)
        if not method.fits:
            build_optimizer(method, stage.optim, f"stage.{stage.name}.optim")
        for variant in ("", *(variant.name for variant in recipe.variant)):
            measured = as_measured(replace(recipe, evaluate=replace(recipe.evaluate, variant=variant)))
            eval_protocol(measured)
            if stage == localizer_of(measured).stage:
                refine(method, measured.evaluate)
