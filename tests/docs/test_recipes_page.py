"""docs/recipes.md names every key of a recipe with its default, and nothing else."""

import dataclasses
import re
import typing

import pytest
from pages import DOCS, blocks, generate

from wsolfast import recipe
from wsolfast.recipe import list_recipes
from wsolfast.refinements import list_refinements

TEXT = (DOCS / "recipes.md").read_text(encoding="utf-8")
SPECS = [thing for thing in (getattr(recipe, name) for name in recipe.__all__) if dataclasses.is_dataclass(thing)]


def rows(spec):
    section = re.search(rf"^### {spec.__name__}$(.*?)(?=^#)", TEXT, flags=re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^\| `(\w+|<refinement>)` \| (.+?) \| (.+) \|$", section, flags=re.MULTILINE)


def default_of(field):
    if field.default is not dataclasses.MISSING:
        return "–" if field.default is None else f"`{generate._default(field.default)}`"
    if field.default_factory is dict:
        return "`{}`"
    return "–" if field.default_factory is dataclasses.MISSING else "defaults"


def choices_of(hint):
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return [choice for inner in typing.get_args(hint) for choice in choices_of(inner)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_table_has_the_keys_of_the_code(spec):
    # The field of all other tables has the names of what they belong to.
    names = {"refinements": "<refinement>"}
    fields = {names.get(field.name, field.name): default_of(field) for field in dataclasses.fields(spec)}
    listed = {name: default for name, default, _ in rows(spec)}
    if spec is recipe.Paper:
        listed |= {name: "–" for _, _, meaning in rows(spec) for name in re.findall(r"`(\w+)`", meaning)}
        assert listed == fields
    else:
        assert list(listed.items()) == list(fields.items())


def test_choices_of_a_key_are_all_named():
    hints = [(spec.__name__, key, hint) for spec in SPECS for key, hint in typing.get_type_hints(spec).items()]
    choices = [(*where, choice) for *where, hint in hints for choice in choices_of(hint)]
    assert ("OptimSpec", "name", "adam") in choices
    for spec, key, choice in choices:
        assert f"`{choice}`" in TEXT or f'`"{choice}"`' in TEXT, f"{spec}.{key}: {choice} is not said"


def test_refinements_are_all_named():
    (said,) = [meaning for name, _, meaning in rows(recipe.EvaluateSpec) if name == "post"]
    assert sorted(re.findall(r"`(\w+)`", said)) == list_refinements()


def test_folders_of_recipes_are_all_named():
    folders = {name.rpartition("/")[0] for name in list_recipes()} - {""}
    assert folders <= set(re.findall(r"`(\w+)/`", TEXT))


def test_the_recipe_of_a_transformer_can_be_meant():
    (text,) = [block for block in blocks("recipes.md", "toml") if "adamw" in block]
    head = '[data]\nname = "cub"\n[[stage]]\nname = "a"\nmethod = "cam"\nepochs = 10\n'
    (stage,) = recipe.parse_recipe(head + text, "page").stage
    assert (stage.optim.name, stage.schedule.name, stage.backbone.drop_path) == ("adamw", "cosine", 0.1)
    assert stage.optim.ema == 0.999
