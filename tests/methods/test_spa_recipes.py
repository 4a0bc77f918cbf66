"""The recipes of SPA and its baseline differ where the paper's rows differ."""

from dataclasses import asdict

import pytest

from wsolfast.recipe import list_recipes, load_recipe

ROWS = [f"{data}_{net}" for data in ("cub", "ilsvrc") for net in ("vgg16", "inception")]
RECIPES = [name for name in list_recipes() if name.rpartition("/")[2].startswith("spa_")]
RECIPES += [f"cam_{row}" for row in ROWS]


def settings(name):
    """Everything but the name, the words and the paper's numbers; the stage's options apart."""
    table = asdict(load_recipe(name))
    for key in ("name", "summary", "paper"):
        table.pop(key)
    return table, table["stage"][0].pop("model")


@pytest.mark.parametrize("name", RECIPES)
def test_published_numbers_rise_as_less_is_asked(name):
    published = load_recipe(name).paper.numbers()
    assert published["top1_loc"] < published["top5_loc"] < published["gt_known_loc"]


@pytest.mark.parametrize("module", ["ram", "scg"])
@pytest.mark.parametrize("row", ROWS)
def test_ablations_switch_one_module_off(row, module):
    """The row is called after the module that stays."""
    whole, options = settings(f"spa_{row}")
    ablated, changed = settings(f"ablation/spa_{row}_{module}")
    assert ablated == whole
    assert changed == options | {"refine" if module == "ram" else "ram": False}


@pytest.mark.parametrize("row", ROWS)
def test_baseline_differs_from_spa_in_the_method_alone(row):
    spa, _ = settings(f"spa_{row}")
    cam, options = settings(f"cam_{row}")
    methods = spa["stage"][0].pop("method"), cam["stage"][0].pop("method")
    assert methods == ("spa", "cam")
    assert options == {"head": "conv3", "cam_relu": True}
    # The published script of the ILSVRC baseline has its own batch and keeps the rate.
    for table in (spa, cam) if row == "ilsvrc_vgg16" else ():
        table["stage"][0].pop("batch_size"), table["stage"][0].pop("schedule")
    assert cam == spa


@pytest.mark.parametrize("row", ROWS)
def test_each_module_helps_and_both_help_most(row):
    """As the paper's rows say, whatever is measured: a slip in a number would show."""
    names = [f"cam_{row}", f"ablation/spa_{row}_ram", f"ablation/spa_{row}_scg", f"spa_{row}"]
    for metric in ("top1_loc", "top5_loc", "gt_known_loc"):
        found = [load_recipe(name).paper.numbers()[metric] for name in names]
        assert found == sorted(found), metric
