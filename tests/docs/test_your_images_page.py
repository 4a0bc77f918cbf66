"""The words of your_images.md that ``wsolfast init`` says."""

import shlex

from pages import blocks

from wsolfast.recipe import load_recipe


def test_init_says_what_the_page_shows(wsolfast):
    commands = [line for block in blocks("your_images.md", "bash") for line in block.splitlines()]
    render, init, train, *_ = [command for command in commands if "/data/" not in command]
    assert (render.split()[1:3], init.split()[1], train.split()[1]) == (["data", "render-images"], "init", "train")
    for command in (render, init):
        code, said, complaint = wsolfast(*shlex.split(command)[1:])
        assert (code, complaint) == (0, "")
    (shown,) = blocks("your_images.md", "text")
    assert said == shown
    # What init proposes is what the page types next.
    assert [line.strip() for line in shown.splitlines() if line.startswith("  wsolfast")] == commands[3:6]
    assert load_recipe("animals.toml").stage[0].backbone.weights == "none"
