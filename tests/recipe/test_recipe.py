import re
from dataclasses import replace

import pytest

from wsolfast.recipe import RecipeError, as_measured, dump_recipe, list_recipes, load_recipe, parse_recipe

SMALL = """
[data]
name = "synthetic"
[[stage]]
name = "localizer"
method = "cam"
epochs = 1
[stage.backbone]
name = "small"
"""
TWO_STAGES = (
    SMALL
    + """
[[stage]]
name = "second"
method = "cam"
epochs = 1
uses = {pseudo_mask = "localizer"}
backbone = {name = "small"}
"""
)


@pytest.mark.parametrize("name", list_recipes())
def test_a_resolved_recipe_reads_back_the_same(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    assert parse_recipe(dump_recipe(recipe), "another name") == recipe


def test_no_recipe_of_the_package_is_chosen_by_boxes():
    # Tables that list them would have to mark it.
    assert not [name for name in list_recipes() if load_recipe(name).chosen_by_boxes]


def test_awkward_strings_and_numbers_survive_the_writer():
    text = SMALL + '[stage.model]\n"a key" = "q\\"uote\\\\ \\n\\t\\u007f ü"\nx = 1e-30\ny = [1, 2]\nz = {u = true}\n'
    recipe = parse_recipe(text, "odd")
    assert parse_recipe(dump_recipe(recipe), "odd") == recipe
    assert recipe.stage[0].model["a key"] == 'q"uote\\ \n\t\x7f ü'


def test_a_variant_is_the_recipe_with_its_settings():
    text = SMALL + '[[variant]]\nname = "mild"\nset = ["stage.model.cam_relu=true", "evaluate.post=scg"]\n'
    recipe = parse_recipe(text, "small", ["evaluate.variant=mild"])
    assert (recipe.stage[0].model, recipe.evaluate.post) == ({}, "none")
    measured = as_measured(recipe)
    assert (measured.stage[0].model, measured.evaluate.post) == ({"cam_relu": True}, "scg")
    assert (measured.name, measured.evaluate.variant) == ("small", "mild")
    plain = parse_recipe(text, "small")
    assert as_measured(plain) is plain


def test_a_variant_has_the_published_row_of_its_own():
    paper = '[paper]\ntitle = "A paper"\nvenue = "Here"\ntop1_loc = 50.0\n\n'
    first = '[[variant]]\nname = "first"\nset = ["evaluate.post=scg"]\n'
    own = '[variant.paper]\ntitle = "Another"\nvenue = "There"\npeak_iou = 56.38\npeak_threshold = 79\n'
    recipe = parse_recipe(
        paper + SMALL + first + own + '[[variant]]\nname = "bare"\nset = ["evaluate.topk=1"]\n', "small"
    )
    found = {
        name: as_measured(replace(recipe, evaluate=replace(recipe.evaluate, variant=name))).paper
        for name in ("", "first", "bare")
    }
    assert found[""].numbers() == {"top1_loc": 50.0}
    assert found["first"].numbers() == {"peak_iou": 56.38, "peak_threshold": 79}
    assert found["bare"] is None
    assert parse_recipe(dump_recipe(recipe), "small") == recipe


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ('name = "a b"\nset = ["evaluate.post=scg"]', "variant name 'a b'"),
        ('name = "a"\nset = []', "variant.a.set: nothing differs"),
        ('name = "a"\nset = ["data.crop=3"]', "'data.crop=3': only evaluate"),
        ('name = "a"\nset = ["evaluate.variant=b"]', "only evaluate"),
        ('name = "a"\nset = ["evaluate.pots=scg"]', "variant.a.set: unknown key 'evaluate.pots'; did you mean 'post'"),
        (
            'name = "a"\nset = ["evaluate.post=scg"]\n[evaluate]\nvariant = "b"',
            "no variant 'b'; there are: a",
        ),
    ],
)
def test_a_variant_that_cannot_be_meant_is_named(variant, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(SMALL + f"[[variant]]\n{variant}\n", "small")
    twice = '[[variant]]\nname = "a"\nset = ["evaluate.post=scg"]\n' * 2
    with pytest.raises(RecipeError, match="two variants are called 'a'"):
        parse_recipe(SMALL + twice, "small")


def test_published_cells_of_spa_stand_in_its_recipes():
    numbers = load_recipe("spa_cub_vgg16").paper.numbers()
    assert numbers == {"top1_loc": 60.27, "top5_loc": 72.45, "gt_known_loc": 77.29}
    assert load_recipe("spa_ilsvrc_vgg16").paper.numbers()["gt_known_loc"] == 65.05


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.epoch=3", "unknown key 'stage.epoch'; did you mean 'epochs'"),
        ("stage.optim.momentun=0.5", "unknown key 'stage.optim.momentun'; did you mean 'momentum'"),
        ("datta.root=x", "unknown key 'datta'; did you mean 'data'"),
        ("stage.epochs=many", "stage.epochs: expected an integer, got 'many'"),
        ("stage.epochs=true", "stage.epochs: expected an integer, got True"),
        ("stage.epochs=1.5", "stage.epochs: expected an integer, got 1.5"),
        ("stage.epochs=-1", "must not be negative"),
        ("stage.batch_size=0", "must not be negative or zero"),
        ("evaluate.topk=0", "evaluate.topk: expected 1 or more, got 0"),
        ("evaluate.batch_size=0", "evaluate.batch_size: expected 1 or more, got 0"),
        ("runtime.workers=-5", "runtime.workers: expected -1 or more, got -5"),
        ("evaluate.resize=-1", "evaluate.resize: expected 1 px or more, got -1"),
        ("data.resize=[32, 0]", "data.resize: expected 1 px or more, got (32, 0)"),
        ("data.crop=-3", "data.crop: expected 1 px or more, got -3"),
        ("stage.crop=0", "stage.localizer.crop: expected 1 px or more, got 0"),
        ("stage.optim.name=lamb", "expected one of sgd, adam, adamw, got 'lamb'"),
        ("evaluate.refinements.scg.delta_h=1", "unknown key 'evaluate.refinements'"),
        ("runtime.amp=fp8", "expected one of none, bf16, fp16, auto"),
        ("data.name=[1]", "data.name: expected a string, got"),
        ("stage.schedule.milestones=[1, 2.5]", "stage.schedule.milestones: expected an integer, got 2.5"),
        ("stage.schedule={milestones=[3], gamma=[0.1, 0.5]}", "expected one number or 1, one per milestone, got 2"),
        ("data.name.sub=1", "'name' is a value, not a table"),
        ("stage=3", "name the stage"),
        ("data.resize=[224]", "data.resize: expected an integer or an array of 2 int, got [224]"),
        ("stage.optim.betas=[0.9]", "stage.optim.betas: expected an array of 2 float, got [0.9]"),
        ("stage.name=model", "stage name 'model'"),
        ("stage.uses={pseudo_mask='nobody'}", "no earlier stage named 'nobody'"),
        ("epochs", "expected key=value"),
        ("=3", "expected key=value"),
    ],
)
def test_an_override_that_cannot_be_meant_names_the_key(override, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse_recipe(SMALL, "small", [override])


def test_override_values_are_toml_and_bare_words_are_strings():
    overrides = ["data.root=/data/my birds", "stage.optim.lr=1", "stage.localizer.epochs=7", "data.options.size=64"]
    recipe = parse_recipe(SMALL, "small", [*overrides, "data.resize=[48, 64]", "stage.backbone.freeze_bn=true"])
    assert recipe.data.root == "/data/my birds"
    assert recipe.data.resize == (48, 64)
    assert recipe.data.options == {"size": 64}
    assert recipe.stage[0].epochs == 7
    assert recipe.stage[0].optim.lr == 1.0
    assert isinstance(recipe.stage[0].optim.lr, float)
    assert recipe.stage[0].backbone.freeze_bn is True


def test_with_two_stages_an_override_names_one():
    recipe = parse_recipe(TWO_STAGES, "two", ["stage.second.epochs=9"])
    assert [stage.epochs for stage in recipe.stage] == [1, 9]
    with pytest.raises(RecipeError, match="there are: localizer, second"):
        parse_recipe(TWO_STAGES, "two", ["stage.epochs=9"])


def test_what_is_missing_or_doubled_is_named():
    with pytest.raises(RecipeError, match=r"missing key 'stage\.backbone'"):
        parse_recipe(SMALL.split("[stage.backbone]")[0], "small")
    with pytest.raises(RecipeError, match="two stages are called 'localizer'"):
        parse_recipe(TWO_STAGES.replace('"second"', '"localizer"'), "two")
    with pytest.raises(RecipeError, match=r"no \[\[stage\]\]"):
        parse_recipe('stage = []\n[data]\nname = "synthetic"\n', "none")
    with pytest.raises(RecipeError, match=r"recipe small: not valid TOML: .*line 1"):
        parse_recipe("data = = 1", "small")


def test_recipes_are_found_by_name_and_by_path(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(SMALL)
    assert load_recipe(file).name == "mine"
    with pytest.raises(RecipeError, match="no recipe named 'demo/cm'; did you mean 'demo/cam'"):
        load_recipe("demo/cm")
    with pytest.raises(RecipeError, match="no recipe file at"):
        load_recipe(tmp_path / "absent.toml")
