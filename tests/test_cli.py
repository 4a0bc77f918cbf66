import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from wsolfast import cli, recipe
from wsolfast.engine import demo
from wsolfast.methods.cam import CAM
from wsolfast.recipe import list_recipes

TINY = [
    "demo/cam",
    "stage.epochs=1",
    "data.options={num_train=16, num_val=8, num_test=8, size=48}",
    "stage.batch_size=8",
    "runtime.workers=0",
]


def test_help_names_every_command_and_needs_no_torch():
    probe = (
        "import sys; sys.argv = ['wsolfast', '--help']\n"
        "from wsolfast.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in (
        *("init", "fold", "demo", "train", "eval", "localize"),
        *("ls", "report", "recipes", "reproduce", "convert"),
    ):
        assert command in done.stdout
    assert "doctor" in done.stdout
    assert "data" in done.stdout


@pytest.mark.parametrize(
    "words", [("train", *TINY, "--runs", "notes"), ("data", "synth-imagenet", "notes/below", "--images", 1)]
)
def test_a_file_where_a_folder_is_needed_is_named(wsolfast, tmp_path, words):
    (tmp_path / "notes").write_text("mine")
    code, _, told = wsolfast(*words)
    assert (code, told) == (2, "error: notes is a file, and a folder is needed there; name another place\n")
    assert (tmp_path / "notes").read_text() == "mine"


def test_recipes_lists_all_and_shows_one(wsolfast):
    code, out, _ = wsolfast("recipes")
    assert code == 0
    assert "60.27" in out
    assert all(name in out for name in list_recipes())
    code, out, _ = wsolfast("recipes", "spa_cub_vgg16")
    assert code == 0
    assert "ram_start = 20            # released" in out
    code, out, _ = wsolfast("recipes", "ablation/spa_cub_vgg16_ram")
    assert code == 0
    assert "refine = false            # paper" in out
    assert "ram_start = 20            # released" in out
    code, out, _ = wsolfast("recipes", "ablation/spa_cub_vgg16_ram", "--diff")
    assert code == 0
    assert "\n[stage.localizer.model]\n+ refine = false            # paper\n" in out
    assert "ram_start" not in out
    assert wsolfast("recipes", "demo/cam", "--diff")[:2] == (0, "demo/cam has no base\n")
    code, _, err = wsolfast("recipes", "spa_*", "--diff")
    assert (code, err) == (2, "error: --diff: name the one recipe whose changes you want to see\n")
    code, out, _ = wsolfast("recipes", "spa_*")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [n for n in list_recipes() if n.startswith("spa_")]


def test_doctor_answers_in_words_and_in_json(wsolfast):
    code, out, _ = wsolfast("doctor", "--json")
    assert code == 0
    state = json.loads(out)
    assert state["ops"]["min_max_normalize"]["cpu"] in ("csrc", "reference")
    assert "cpu" in state["devices"][0]
    code, out, _ = wsolfast("doctor")
    assert code == 0
    assert "self_correlation_map" in out


def test_training_by_name_then_again_then_resumed(wsolfast, tmp_path):
    code, out, err = wsolfast("train", *TINY, "--seed", 3)
    assert code == 0, err
    assert (tmp_path / "runs" / "demo-cam" / "checkpoints" / "model.safetensors").is_file()
    assert "seed = 3" in (tmp_path / "runs" / "demo-cam" / "recipe.toml").read_text()
    assert "wsolfast eval runs/demo-cam" in out
    code, _, err = wsolfast("train", *TINY)
    assert code == 2
    assert err == (
        "error: runs/demo-cam exists; continue it with --resume runs/demo-cam, or start it over with --exist-ok\n"
    )
    assert wsolfast("train", "--resume", "runs/demo-cam", "--quiet")[:2] == (0, "")
    code, _, err = wsolfast("train", "--resume", "runs/demo-cam", "stage.optim.lr=3")
    assert code == 2
    assert "only runtime.* and data.root may change" in err
    assert "lr = 3" not in (tmp_path / "runs" / "demo-cam" / "recipe.toml").read_text()
    assert wsolfast("train", *TINY, "--exist-ok", "--quiet")[0] == 0


def test_an_error_of_the_system_is_one_line_and_an_unforeseen_one_keeps_its_traceback(wsolfast, tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file in the way")
    code, _, err = wsolfast("train", *TINY)
    assert (code, err.count("\n")) == (2, 1)
    assert "runs is a file, and a folder is needed there" in err

    def full(**_):
        raise OSError(28, "No space left on device", "runs/demo-cam/train.log")

    with monkeypatch.context() as patch:
        patch.setattr(cli, "app", full)
        code, _, err = wsolfast()
    assert (code, err) == (1, "error: [Errno 28] No space left on device: 'runs/demo-cam/train.log'\n")
    monkeypatch.setattr(cli, "app", lambda **_: {}["bug"])
    with pytest.raises(KeyError):
        cli.main()


def test_a_trained_run_is_measured_shown_and_used_on_files(wsolfast, tmp_path):
    assert wsolfast("train", *TINY, "--quiet")[0] == 0
    assert wsolfast("eval", "runs/demo-cam", "--post", "scg", "evaluate.scg.layers=['conv5']", "-q")[0] == 0
    assert (tmp_path / "runs/demo-cam/eval/test-scg/results.json").is_file()
    code, out, err = wsolfast("eval", "runs/demo-cam", "--protocol", "spa")
    assert code == 0, err
    for title in (
        "Top-1 Cls",
        "GT-known Loc",
        "MaxBoxAccV2",
        "centre box",
        "oracle threshold",
        "transferred threshold",
        "PxAP",
    ):
        assert title in out
    code, out, _ = wsolfast("eval", "runs/demo-cam", "--limit", 3, "--json")
    assert code == 0
    assert json.loads(out)["num_images"] == 3

    code, out, err = wsolfast("report", "runs/demo-cam", "--out", "page.html")
    assert code == 0, err
    assert (tmp_path / "page.html").read_text().lstrip().lower().startswith("<!doctype html>")

    rng = np.random.default_rng(0)
    (tmp_path / "more").mkdir()
    Image.fromarray(rng.integers(0, 255, (40, 70, 3), dtype=np.uint8)).save("wide.png")
    Image.fromarray(rng.integers(0, 255, (31, 20), dtype=np.uint8)).save("more/wide.png")
    code, out, err = wsolfast("localize", "runs/demo-cam", "wide.png", "more/wide.png", "--out", "boxes")
    assert code == 0, err
    told = json.loads((tmp_path / "boxes" / "boxes.json").read_text())
    names = json.loads((tmp_path / "runs" / "demo-cam" / "classes.json").read_text())
    assert [image["size"] for image in told["images"]] == [[70, 40], [20, 31]]
    assert [Image.open(image["overlay"]).size for image in told["images"]] == [(70, 40), (20, 31)]
    for image in told["images"]:
        x0, y0, x1, y1 = image["boxes"][0]
        assert 0 <= x0 <= x1 <= image["size"][0]
        assert 0 <= y0 <= y1 <= image["size"][1]
        assert names[image["class_id"]] == image["class_name"]

    (tmp_path / "note.jpg").write_text("no image")
    name = names[3]
    code, out, err = wsolfast("localize", "runs/demo-cam", "note.jpg", "wide.png", "--class", name, "--threshold", 0.5)
    assert code == 1
    assert err.splitlines()[-1] == "error: note.jpg: not an image; repair it, or give other files"
    assert f"wide.png: {name}" in out
    told = json.loads((tmp_path / "runs" / "demo-cam" / "localized" / "boxes.json").read_text())
    assert told["threshold"] == 0.5
    assert [failure["file"] for failure in told["failed"]] == ["note.jpg"]
    code, _, err = wsolfast("localize", "runs/demo-cam", "wide.png", "--class", name[:-1])
    assert (code, err.strip()) == (
        2,
        f"error: --class {name[:-1]!r}: the run knows no such class; did you mean {name!r}?",
    )


def test_a_network_as_it_is_localises_photos_by_the_names_of_its_weights(wsolfast, tmp_path):
    from wsolfast._compat import import_torchvision

    models = import_torchvision().models
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "squeezenet.pt")
    pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    names = models.SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]
    code, out, err = wsolfast("localize", "imagenet/squeezenet", "photo.png", "--weights", "squeezenet.pt")
    assert code == 0, err
    (image,) = json.loads((tmp_path / "runs" / "imagenet-squeezenet" / "localized" / "boxes.json").read_text())[
        "images"
    ]
    assert image["class_name"] == names[image["class_id"]]
    assert f"photo.png: {image['class_name']}" in out
    code, _, err = wsolfast("localize", "runs/imagenet-squeezenet", "photo.png", "--class", names[7])
    assert code == 0, err
    code, _, err = wsolfast("localize", "runs/imagenet-squeezenet", "photo.png", "--weights", "squeezenet.pt")
    assert (code, err.strip()) == (2, "error: --weights goes with a recipe; a run has its own")
    code, _, err = wsolfast("localize", "demo/cam", "photo.png")
    assert code == 2
    assert "recipe demo/cam is to be trained" in err


def test_reproduce_lists_runs_and_fails_with_a_table(wsolfast, tmp_path):
    short = ["stage.epochs=1", "stage.batch_size=8", "data.options={num_train=16, num_val=8, num_test=8, size=48}"]
    words = ["reproduce", "--recipes", "demo/cam", "--recipes", "demo/nl_ccam", *short]
    code, out, err = wsolfast(*words, "--list", "--seeds", "0,1")
    assert code == 0, err
    assert [line.split()[:2] for line in out.splitlines()] == [["to", "do"]] * 4
    assert not (tmp_path / "runs").exists()
    code, out, err = wsolfast(*words, "--quiet")
    assert (code, out) == (0, ""), err
    code, out, err = wsolfast(*words, "--output", "other", "stage.backbone.weights=absent.pth")
    assert code == 1
    assert "2 of 2 runs failed" in err.splitlines()[-1]
    assert "no weights at absent.pth" in err.splitlines()[-1]
    assert (tmp_path / "other" / "reproduce.md").read_text() in out
    code, out, err = wsolfast(*words, "--list")
    assert [line.split()[0] for line in out.splitlines()] == ["finished", "finished"]


def test_reproduce_exits_with_130_when_it_is_stopped(wsolfast, monkeypatch):
    step = CAM.training_step

    def stopped(self, batch, state):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, state)

    monkeypatch.setattr(CAM, "training_step", stopped)
    code, _, err = wsolfast("reproduce", "--recipes", "demo/cam", *TINY[1:], "--quiet")
    assert code == 130
    assert "give the same command again" in err


def test_the_demo_trains_measures_and_reports_twice(wsolfast, tmp_path, monkeypatch):
    original = recipe.load_recipe

    def small(name, overrides):
        batches = [f"stage.{stage.name}.batch_size=8" for stage in original(name).stage]
        images = "data.options={num_train=16, num_val=8, num_test=8, size=48}"
        return original(name, [*overrides, images, *batches])

    monkeypatch.setattr(demo, "load_recipe", small)
    for words in ((), ("--baselines",)):
        if words:
            monkeypatch.setattr(demo, "list_recipes", lambda: ["cub50/cam", "demo/cam", "demo_baselines/has"])
        code, out, err = wsolfast("demo", "--minutes", 0.1, *words)
        assert code == 0, err
        rows = [line.split()[0] for line in out.splitlines()[1:-1]]
        assert rows == [name.rpartition("/")[2] for name in demo.demo_recipes(baselines=bool(words))] + ["centre"]
        assert (tmp_path / "runs" / "demo" / "report" / "index.html").is_file()
        assert (tmp_path / "runs" / "demo" / "report" / "report.png").is_file()


def test_unreadable_images_stop_a_run_or_are_left_out_with_a_count(wsolfast, tmp_path):
    rows = ["image,class_id,class_name,width,height,x0,y0,x1,y1,split"]
    for i in range(8):
        Image.new("RGB", (48, 48), (30 * i, 90, 200)).save(tmp_path / f"{i}.png")
        rows += [f"{i}.png,{i % 2},{'ab'[i % 2]},48,48,8,8,40,40,{'train' if i < 5 else 'test'}"]
    (tmp_path / "annotations.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "1.png").write_bytes(b"not an image")
    (tmp_path / "6.png").write_bytes(b"neither")
    words = ["demo/cam", "data.name=folder", "data.root=.", "data.options={}", "stage.epochs=1", "stage.batch_size=2"]
    code, _, err = wsolfast("train", *words, "--name", "stopped")
    assert code == 3
    assert "1.png" in err
    code, out, err = wsolfast("train", *words, "--skip-bad")
    assert code == 0, err
    assert "1 unreadable image is left out" in out + err
    code, out, err = wsolfast("eval", "runs/demo-cam", "--skip-bad")
    assert code == 0, err
    assert "2 images of test" in out + err


def test_data_check_looks_at_a_tree(wsolfast, tmp_path):
    code, out, _ = wsolfast("data", "check", "folder", tmp_path)
    assert code == 3
    assert "annotations.csv" in out
    assert wsolfast("data", "check", "fold", tmp_path)[0] == 2


def test_data_is_rendered_indexed_and_opened_by_its_index(wsolfast, tmp_path):
    words = ("data", "synth-imagenet", "tree", "--images", 6, "--train-images", 3, "--classes", 3, "--size", 32)
    code, out, err = wsolfast(*words)
    assert (code, out) == (0, "tree: 9 images, 9 of them new\n"), err
    assert wsolfast(*words, "--quiet")[:2] == (0, "")
    code, out, err = wsolfast("data", "index", "ilsvrc", "tree")
    assert code == 0, err
    assert out == "index: tree/.wsolfast (train_weaksup 3, test 6)\n"
    assert "still holds: " in wsolfast("data", "index", "ilsvrc", "tree")[1]
    (tmp_path / "tree/val/ILSVRC2012_val_00000002.JPEG").write_bytes(b"?")
    code, out, err = wsolfast("data", "index", "ilsvrc", "tree", "--force", "--workers", 2)
    assert code == 0, err
    assert out.startswith("index: ")
    assert wsolfast("data", "check", "ilsvrc", "tree")[0] == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["eval", "nowhere"], 2, "no recipe named 'nowhere'"),
        (["eval", "demo/cam"], 2, "recipe demo/cam is to be trained"),
        (["eval", "demo/cam", "--weights", "absent.pt"], 3, "no weights at absent.pt"),
        (["localize", "demo/cam", "x.jpg"], 3, "no image at x.jpg; give the paths of existing files"),
        (["report", "nowhere"], 3, "there is no run at nowhere, and no other in ."),
        (["train"], 2, "give a recipe (wsolfast recipes lists them) or --resume RUN"),
        (["train", "demo/cm"], 2, "did you mean 'demo/cam'?"),
        (["train", "demo/cam", "stage.epocs=3"], 2, "unknown key 'stage.epocs'; did you mean 'epochs'?"),
        (["train", "demo/cam", "--save-every", "often"], 2, "--save-every: expected a number of steps"),
        (["train", "demo/cam", "--name", "a/b"], 2, "--name: expected the name of a folder"),
        (["train", "demo/cam", "--seed", "-1"], 2, "seed: expected 0 or more, got -1"),
        (["reproduce", "--recipes", "demo/cam", "--seeds", "0,-3"], 2, "seed: expected 0 or more, got -3"),
        (["demo", "--seed", "-1"], 2, "seed: expected 0 or more, got -1"),
        (["train", "demo/cam", "data.options.size=abc"], 2, "data: size: expected a whole number, got 'abc'"),
        (["train", "--resume", "nowhere"], 3, "there is no run at nowhere"),
        (["train", "cub50/cam", "data.root=nowhere"], 3, "nowhere: no such folder"),
        (["train", "cub50/cam"], 3, "needs its folder"),
        (["recipes", "cub50"], 2, "no recipe named 'cub50'"),
        (["recipes", "cub51*"], 2, "no recipe matches 'cub51*'"),
        (["reproduce", "--recipes", "cub51*"], 2, "matches no recipe"),
        (["reproduce", "--seeds", "0,x"], 2, "--seeds: expected numbers with commas between"),
        (["reproduce", "--recipes", "spa_cub_vgg16", "--quiet"], 2, "nothing to run: give --data DIR"),
        (["reproduce", "--recipes", "demo/*", "stage.epocs=1"], 2, "did you mean 'epochs'?"),
        (["data", "index", "cub"], 2, "expected NAME ROOT [OPTION=VALUE]..., such as: ilsvrc /data/ILSVRC"),
        (["data", "index", "synthetic", "."], 2, "'synthetic' opens as fast from its files: there is nothing to index"),
        (["data", "index", "ilsvrc", ".", "metdata=x"], 2, "did you mean 'metadata'?"),
        (["data", "index", "ilsvrc", "nowhere"], 3, "nowhere: no such folder"),
        (["data", "fetch", "cub"], 2, "non-commercial research and education only"),
        (["data", "fetch", "cub", "--accept-licence", "--url", "file:///x"], 3, "only http and https"),
        (["data", "fetch", "cub", "--accept-licence", "--url", "http://127.0.0.1:9/", "--sha256", "x"], 2, "64 hexa"),
        (["data", "synth-imagenet", "/"], 3, "/: is not empty, and nothing of this command's"),
        (["train", "demo/cam", "--device", "cuda:99"], 4, "device 'cuda:99'"),
        (["train", "demo/cam", "stage.backbone.weights=none.pth"], 3, "no weights at none.pth"),
    ],
)
def test_a_user_error_is_one_line_and_an_exit_code(wsolfast, words, code, message):
    found, _, err = wsolfast(*words)
    assert found == code
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("train", "--fast"), r"No such option: --fast; see [^\n]*wsolfast train --help"),
        (("tran",), r"No such command 'tran'[^\n]*; see [^\n]*wsolfast --help"),
        (("eval",), r"Missing argument [^\n]*; see [^\n]*wsolfast eval --help"),
        (("data", "check"), r"Missing argument 'name'; see [^\n]*wsolfast data check --help"),
        (("eval", "a", "--limit", "0"), r"Invalid value for '--limit': [^\n]*; see [^\n]*wsolfast eval --help"),
        (("train", "a", "--seed", "x"), r"Invalid value for '--seed': [^\n]*; see [^\n]*wsolfast train --help"),
    ],
)
def test_a_command_line_that_typer_refuses_is_one_line_without_a_terminal(wsolfast, monkeypatch, words, told):
    monkeypatch.setenv("COLUMNS", "30")
    code, out, err = wsolfast(*words)
    assert (code, out) == (2, "")
    assert re.fullmatch(f"error: {told}\n", err), err


@pytest.mark.parametrize("words", [(), ("data",), ("bench",)])
def test_a_group_without_a_command_shows_its_help_alone(wsolfast, words):
    code, out, err = wsolfast(*words)
    assert (code, err) == (2, "")
    assert "Commands" in out


def test_typers_box_is_for_terminals(wsolfast, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, _, err = wsolfast("train", "--fast")
    assert (code, "No such option" in err, "Usage" in err, "error:" in err) == (2, True, True, False)


def test_ctrl_c_writes_a_checkpoint_and_exits_with_130(tmp_path):
    words = [*TINY, "stage.epochs=10000", "runtime.device=cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "wsolfast", "train", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    run = tmp_path / "runs" / "demo-cam"
    deadline = time.monotonic() + 60
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with: wsolfast train --resume runs/demo-cam" in err.splitlines()[-1]


def every_option():
    def walk(command, path):
        yield " ".join(path) or "wsolfast", command.help
        for parameter in command.params:
            if getattr(parameter, "help", None) is not None:
                yield " ".join([*path, parameter.name]), parameter.help
        for name, inside in getattr(command, "commands", {}).items():
            yield from walk(inside, [*path, name])

    return list(walk(typer.main.get_command(cli.app), []))


@pytest.mark.parametrize(
    ("where", "text"), [pytest.param(*one, id=one[0]) for one in every_option() if not one[0].startswith("data ")]
)
def test_help_is_whole_sentences(where, text):
    first = text.strip().split()[0]
    assert text.strip().endswith(".")
    assert first[0].isupper()
    assert len(text.split()) > 1
    # A command's first word says what it does; a noun alone begins no sentence.
    assert first not in ("Of", "On", "What", "Where", "How", "That", "Only", "Whether", "Besides")


@pytest.mark.parametrize("columns", ["40", "80"])
def test_lines_for_people_are_not_wrapped_without_a_terminal(tmp_path, columns):
    long = "a-folder-with-a-name-that-is-longer-than-any-line-of-a-terminal-is-wide-or-should-be"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": columns}

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "wsolfast", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    out, err = run("train", *TINY, "--name", long)
    assert f"measure it, if the test images have boxes or masks: wsolfast eval runs/{long}\n" in out
    assert "1 epoch of 2 steps on cpu" in err
    out, _ = run("eval", f"runs/{long}")
    assert "8 images of test, protocol wsolevaluation, boxes at" in out.splitlines()[-1]
    assert out.splitlines()[-1].endswith("images/s")
    assert "oracle threshold  transferred threshold  centre box" in out.splitlines()[0]
    assert "Top-1 boxes, percent: Misclassified" in out
    assert "Part " in out
    assert "More " in out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("20000", None)),
        ({"OMP_WAIT_POLICY": "active"}, (None, "active")),
        ({"GOMP_SPINCOUNT": "7"}, ("7", None)),
        ({"KMP_BLOCKTIME": "1"}, (None, None)),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_how_they_wait(given, expected):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    probe = (
        "import os, sys; sys.argv = ['wsolfast', 'recipes', 'demo/cam']\n"
        "from wsolfast.cli import main\n"
        "try: main()\n"
        "finally: print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))\n"
    )
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=clean | given, check=True)
    assert done.stdout.splitlines()[-1] == " ".join(map(str, expected))
