"""A recipe that starts from another one means that one with its own changes."""

import re
from dataclasses import replace

import pytest

from wsolfast.recipe import (
    Paper,
    RecipeError,
    diff_recipe,
    dump_recipe,
    list_recipes,
    load_recipe,
    parse_recipe,
    show_recipe,
)

ROOT = """
summary = "two networks"

[paper]
title = "A paper"
venue = "Here 2020"
top1_loc = 50.0

[data]
name = "synthetic"            # ours
options = {size = 48}         # ours: small

# The first network.
[[stage]]
name = "cam"                  # ours
method = "spol.cam"           # paper
epochs = 4                    # paper

[stage.backbone]
name = "small"                # ours

[stage.model]
mca = true                    # paper
fuse_stages = 3               # paper

[stage.schedule]
name = "step"                 # released
milestones = [2, 3]           # released
gamma = [
  0.1,                        # released
  0.5,
]

[[stage]]
name = "seg"                  # ours
method = "spol.seg"           # paper
epochs = 2                    # paper
uses = {pseudo_mask = "cam"}  # paper
backbone = {name = "small"}   # ours

[[variant]]
name = "first"
set = ["evaluate.localizer=cam"]
"""
VARIANT = '[[variant]]\nname = "first"\n'
CHILD = """
base = "root.toml"
summary = "one thing changed"

[[stage]]
name = "seg"

[stage.model]
dropout = 0.3                 # ours: more of it
"""


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    write("root.toml", ROOT)
    return write


@pytest.fixture
def resolve(write):
    """The recipe that starts from ROOT and says ``text``."""
    return lambda text, *overrides: load_recipe(write("child.toml", f'base = "root.toml"\n{text}'), overrides)


def test_a_child_is_its_base_with_its_changes(write):
    root, child = load_recipe(write("root.toml", ROOT)), load_recipe(write("child.toml", CHILD))
    cam, seg = root.stage
    expected = replace(root, name="child", summary="one thing changed", paper=None)
    assert child == replace(expected, stage=(cam, replace(seg, model={"dropout": 0.3})))


def test_summary_and_paper_are_never_inherited(resolve):
    recipe = resolve("seed = 1")
    assert (recipe.name, recipe.summary, recipe.paper, recipe.seed) == ("child", "", None, 1)
    recipe = resolve('seed = 1\nsummary = "two networks"\n[paper]\ntitle = "A paper"\nvenue = "Here 2020"')
    assert (recipe.summary, recipe.paper.title, recipe.paper.top1_loc) == ("two networks", "A paper", None)


def test_a_variant_is_inherited_without_its_published_row(write):
    row = '[variant.paper]\ntitle = "A paper"\nvenue = "Here 2020"\npeak_iou = 56.4\n'
    root = load_recipe(write("root.toml", ROOT + row))
    bare, own = (
        load_recipe(write("child.toml", f'base = "root.toml"\nseed = 1\n{text}')) for text in ("", VARIANT + row)
    )
    assert [recipe.variant[0].set for recipe in (root, bare, own)] == [("evaluate.localizer=cam",)] * 3
    papers = [recipe.variant[0].paper for recipe in (root, bare, own)]
    assert papers[0] == papers[2] == Paper("A paper", "Here 2020", peak_iou=56.4)
    assert papers[1] is None
    assert "peak_iou = 56.4" in show_recipe(write("child.toml", f'base = "root.toml"\nseed = 1\n{VARIANT}{row}'))
    assert "peak_iou" not in show_recipe(write("child.toml", 'base = "root.toml"\nseed = 1'))


def test_tables_merge_and_arrays_replace(resolve):
    text = """
[data.options]
count = 9
[[stage]]
name = "cam"
[stage.model]
fuse_stages = 2
[stage.schedule]
milestones = [1, 2]
"""
    recipe = resolve(text)
    assert recipe.data.options == {"size": 48, "count": 9}
    assert recipe.stage[0].model == {"mca": True, "fuse_stages": 2}
    assert recipe.stage[0].schedule.milestones == (1, 2)
    assert recipe.stage[0].schedule.gamma == (0.1, 0.5)


def test_a_value_of_the_base_may_be_said_again_with_another_source(write, resolve):
    path = write("child.toml", 'base = "root.toml"\n[[stage]]\nname = "cam"\nepochs = 4 # released: by chance')
    assert load_recipe(path).stage[0].epochs == 4
    assert "epochs = 4 # released: by chance\n" in show_recipe(path)
    assert "- epochs = 4                    # paper\n+ epochs = 4 # released: by chance" in diff_recipe(path)
    for comment in ("", "# by chance", "# paper"):
        with pytest.raises(RecipeError, match=r"stage\.cam\.epochs: 'root' says 4, too"):
            resolve(f'[[stage]]\nname = "cam"\nepochs = 4 {comment}')


def test_stages_and_variants_are_changed_by_name_and_new_ones_come_last(resolve):
    text = """
[[stage]]
name = "third"
method = "cam"
epochs = 1
backbone = {name = "small"}
[[stage]]
name = "seg"
epochs = 5
[[variant]]
name = "first"
summary = "of the first network"
[[variant]]
name = "scg"
set = ["evaluate.post=scg"]
"""
    recipe = resolve(text)
    assert [(stage.name, stage.epochs) for stage in recipe.stage] == [("cam", 4), ("seg", 5), ("third", 1)]
    assert [(variant.name, variant.summary) for variant in recipe.variant] == [
        ("first", "of the first network"),
        ("scg", ""),
    ]
    assert recipe.variant[0].set == ("evaluate.localizer=cam",)


def test_what_is_removed_is_not_there_and_may_be_given_anew(resolve):
    recipe = resolve('remove = ["stage.seg", "stage.cam.model.mca", "variant.first"]')
    assert [stage.name for stage in recipe.stage] == ["cam"]
    assert recipe.stage[0].model == {"fuse_stages": 3}
    assert recipe.variant == ()
    recipe = resolve('remove = ["stage.cam.model"]\n[[stage]]\nname = "cam"\n[stage.model]\nmca = true')
    assert recipe.stage[0].model == {"mca": True}


def test_the_only_stage_needs_no_name(write):
    write("one.toml", 'base = "root.toml"\nremove = ["stage.seg", "variant.first"]')
    changes = "[[stage]]\nepochs = 9 # ours\n[stage.model]\ndropout = 0.5 # ours"
    path = write("two.toml", f'base = "one.toml"\nremove = ["stage.model.mca"]\n{changes}')
    (stage,) = load_recipe(path).stage
    assert (stage.name, stage.epochs, stage.model) == ("cam", 9, {"fuse_stages": 3, "dropout": 0.5})
    assert 'name = "cam"                  # ours\nmethod = "spol.cam"           # paper\nepochs = 9 # ours' in (
        show_recipe(path)
    )
    with pytest.raises(RecipeError, match=r"stage\.cam: nothing in it differs from 'one'"):
        load_recipe(write("two.toml", 'base = "one.toml"\n[[stage]]'))


def test_overrides_apply_to_the_merged_recipe(resolve):
    recipe = resolve("seed = 1", "stage.cam.epochs=9", "seed=0")
    assert (recipe.stage[0].epochs, recipe.seed) == (9, 0)


def test_the_dump_is_whole_and_the_same_whatever_a_recipe_starts_from(write):
    whole = """
[data]
name = "synthetic"
options = {b = 1, a = 2}
[[stage]]
name = "localizer"
method = "cam"
epochs = 1
backbone = {name = "small"}
"""
    write("whole.toml", whole)
    write("part.toml", whole.replace("b = 1, ", ""))
    child = load_recipe(write("child.toml", 'base = "part.toml"\ndata.options.b = 1'))
    text = dump_recipe(child)
    assert "base" not in text
    assert text == dump_recipe(replace(load_recipe(write("whole.toml", whole)), name="child"))
    assert parse_recipe(text, "child") == child


def test_a_base_is_a_recipe_of_the_package_or_a_path_beside_the_file(write):
    packaged = load_recipe(write("mine.toml", 'base = "demo/cam"\nseed = 7'))
    assert packaged == replace(load_recipe("demo/cam"), name="mine", seed=7, summary="", paper=None)
    assert parse_recipe('base = "demo/cam"\nseed = 7', "mine") == packaged
    assert load_recipe(write("below/child.toml", CHILD.replace("root.toml", "../root.toml"))).stage[0].epochs == 4
    with pytest.raises(
        RecipeError, match=r"recipe mine: base: expected the name of a recipe of the package, got 'a\.t"
    ):
        parse_recipe('base = "a.toml"\nseed = 7', "mine")


def test_a_chain_has_two_bases_at_most(write):
    write("b.toml", 'base = "root.toml"\nseed = 1')
    path = write("c.toml", 'base = "b.toml"\nseed = 2')
    assert load_recipe(path).seed == 2
    path = write("d.toml", 'base = "c.toml"\nseed = 3')
    message = "d starts from c starts from b, which starts from 'root'; expected at most 2 bases one after another"
    with pytest.raises(RecipeError, match=f"recipe d: base: {message}"):
        load_recipe(path)


def test_a_circle_is_named(write, tmp_path, monkeypatch):
    write("a.toml", 'base = "b.toml"\nseed = 1')
    path = write("b.toml", 'base = "a.toml"\nseed = 2')
    with pytest.raises(RecipeError, match="recipe b: base: b starts from a starts from b, a circle"):
        load_recipe(path)
    write("a.toml", 'base = "a.toml"')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="recipe a: base: a starts from a, a circle"):
        load_recipe("a.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 0\n[[stage]]\nname = 'seg'\nepochs = 2", "stage.seg.epochs: 'root' says 2, too; leave it out"),
        ("[data]\nname = 'synthetic'", "data.name: 'root' says 'synthetic', too; leave it out"),
        ("[[stage]]\nname = 'seg'", "stage.seg: nothing in it differs from 'root'; leave it out"),
        ("[data]", "data: nothing in it differs from 'root'; leave it out"),
        ("[[variant]]\nname = 'first'", "variant.first: nothing in it differs from 'root'"),
        (
            "[[stage]]\nname = 'sge'\nepochs = 3",
            "stage.sge: 'root' has no such stage; did you mean 'seg'? (a new one needs backbone and method)",
        ),
        ("[[stage]]\nepochs = 3", "missing key 'stage.name'"),
        ("[[stage]]\nname = 'seg'\nepochs = 3\n[[stage]]\nname = 'seg'\nepochs = 4", "two stages are called 'seg'"),
        ("[[stage]]\nname = 'seg'\nepocs = 3", "unknown key 'stage.epocs'; did you mean 'epochs'?"),
        ("remove = ['stage.sge']", "remove: 'root' has no 'stage.sge'; did you mean 'seg'?"),
        ("remove = ['stage.seg.model.mca']", "remove: 'root' has no 'stage.seg.model'; did you mean 'method'?"),
        ("remove = ['data.nam']", "remove: 'root' has no 'data.nam'; did you mean 'name'?"),
        ("remove = ['data.name.x']", "remove: 'data.name.x': 'root' has a value in front of 'x', not a table"),
        ("remove = ['paper']", "remove: 'root' has no 'paper'"),
        ("remove = 'stage.seg'", "remove: expected an array of keys, got 'stage.seg'"),
        ("remove = []", "remove: expected an array of keys, got []"),
        ("remove = ['stage.cam']", "stage.seg.uses.pseudo_mask: no earlier stage named 'cam'"),
        ("stage = 3", "stage: expected an array of tables, got 3"),
        ("data = 3", "data: expected a table, got 3"),
        ("[stage.seg]\nepochs = 3", "stage: expected an array of tables, got {'seg': {'epochs': 3}}"),
    ],
)
def test_a_change_that_cannot_be_meant_is_named(resolve, text, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as error:
        resolve(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base = 3", "recipe mine: base: expected a string, got 3"),
        ("base = 'demo/cm'", "recipe mine: base: no recipe named 'demo/cm'; did you mean 'demo/cam'?"),
        ("base = 'absent.toml'", "recipe mine: base: no recipe file at "),
        (CHILD.replace("root", "bad"), "recipe bad: unknown key 'data.nme'; did you mean 'name'?"),
        (CHILD.replace("root", "worse"), "recipe worse: not valid TOML"),
        (ROOT + "\n[runtime]\n" + "remove = 3", "unknown key 'runtime.remove'"),
        ("remove = ['data']\n" + ROOT, "recipe mine: remove: there is no base to remove anything from"),
    ],
)
def test_a_base_that_cannot_be_meant_is_named(write, text, message):
    write("bad.toml", ROOT.replace("name", "nme", 1))
    write("worse.toml", "data = = 3")
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(write("mine.toml", text))


def test_a_recipe_is_shown_merged_with_the_line_that_says_each_value(write):
    shown = show_recipe(write("child.toml", CHILD))
    assert shown.startswith('# child starts from root\nsummary = "one thing changed"\n\n[data]\n')
    assert '\n# The first network.\n[[stage]]\nname = "cam"                  # ours\n' in shown
    assert '\nname = "seg"                  # ours\nmethod = "spol.seg"           # paper\n' in shown
    assert "\n[stage.model]\ndropout = 0.3                 # ours: more of it\n" in shown
    assert "\ngamma = [\n  0.1,                        # released\n  0.5,\n]\n" in shown
    assert "A paper" not in shown
    assert show_recipe(write("root.toml", ROOT)) == ROOT.strip()


@pytest.mark.parametrize("name", list_recipes())
def test_what_is_shown_is_what_is_meant_and_has_its_sources(name):
    shown = show_recipe(name)
    assert parse_recipe(shown, name) == load_recipe(name)
    section = ""
    for line in shown.splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        if section.startswith("stage") and re.match(r"\w+ *=", line):
            assert re.search(r"# (paper|released|ours)\b", line), f"{name}: no source: {line}"


def test_keys_that_meet_in_one_table_are_shown_in_it(write):
    """An inline table and a dotted key: neither line says the whole."""
    shown = show_recipe(write("child.toml", 'base = "root.toml"\ndata.options.count = 9'))
    assert "\n[data.options]\nsize = 48\ncount = 9\n" in shown


def test_the_changes_of_a_recipe_are_shown_by_table(write):
    text = CHILD + '[[stage]]\nname = "cam"\nepochs = 5 # ours\n'
    text = text.replace("summary", 'remove = ["stage.cam.model.mca"]\nsummary')
    assert (
        diff_recipe(write("child.toml", text))
        == """\
- summary = "two networks"
+ summary = "one thing changed"

[stage.cam]
- epochs = 4                    # paper
+ epochs = 5 # ours

[stage.seg.model]
+ dropout = 0.3                 # ours: more of it

[paper]
- title = "A paper"
- venue = "Here 2020"
- top1_loc = 50.0

[stage.cam.model]
- mca = true                    # paper"""
    )
    assert diff_recipe(write("root.toml", ROOT)) == "root has no base"
