"""The drop-in as a program, around a program, and as what computes score maps."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from oracles.benchmark_folder import BOXES, SIZES

drop_in = pytest.importorskip(
    "wsolfast.compat.wsolevaluation", reason="the box engine is not compiled", exc_type=ImportError
)


def run(*words, cwd=None):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False, cwd=cwd)


def test_it_imports_without_torch_opencv_and_pillow():
    code = "import sys, wsolfast.compat.wsolevaluation; print({'torch', 'cv2', 'PIL'} & set(sys.modules))"
    assert run("-c", code).stdout == "set()\n"


def test_without_the_compiled_engine_the_import_says_what_to_do():
    code = "import sys; sys.modules['wsolfast._numpy'] = None; import wsolfast.compat.wsolevaluation"
    assert "ImportError: wsolfast.compat.wsolevaluation runs on the compiled box engine" in run("-c", code).stderr


@pytest.mark.parametrize(
    ("flags", "multi", "average"),
    [
        ([], False, False),
        (["--multi_contour_eval", "--multi_iou_eval", "true"], True, True),
        (["--multi_contour_eval=False", "--multi_iou_eval=n"], False, False),
    ],
)
def test_the_command_line_takes_the_originals_flags(metadata_root, scoremap_root, capsys, flags, multi, average):
    words = ["--scoremap_root", scoremap_root, "--metadata_root", metadata_root, "--dataset_name", "CUB"]
    words += ["--split", "test", "--iou_threshold_list", "30", "50", "70"]
    drop_in.main([*map(str, words), *flags])
    printed = capsys.readouterr().out.splitlines()
    evaluator = drop_in.BoxEvaluator(
        metadata=drop_in.configure_metadata(str(metadata_root / "CUB" / "test")),
        dataset_name="CUB",
        split="test",
        cam_threshold_list=list(np.arange(0, 1, 0.01)),
        iou_threshold_list=[30, 50, 70],
        mask_root="",
        multi_contour_eval=multi,
    )
    for image_id in SIZES:
        evaluator.accumulate(np.load(scoremap_root / f"{image_id}.npy"), image_id)
    numbers = evaluator.compute()
    wanted = np.average(numbers) if average else numbers[1]
    assert 0 < wanted < 100
    assert printed == ["Loading and evaluating cams.", f"localization: {wanted}"]


def test_it_runs_as_a_module(metadata_root, scoremap_root):
    words = ["--scoremap_root", scoremap_root, "--metadata_root", metadata_root, "--dataset_name", "CUB"]
    done = run("-m", "wsolfast.compat.wsolevaluation", *words, "--split", "test", "--cam_curve_interval", ".05")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("localization: ")


@pytest.mark.parametrize("words", [["--dataset_name", "birds"], ["--multi_contour_eval", "perhaps"], ["absent.py"]])
def test_a_mistaken_command_line_is_exit_2(words):
    with pytest.raises(SystemExit) as exit_:
        drop_in.main(words)
    assert exit_.value.code == 2


def test_a_program_finds_the_drop_in_as_evaluation(tmp_path):
    (tmp_path / "helper.py").write_text("import numpy as np\n\ndef cast(x):\n    return x.astype(np.float)\n")
    (tmp_path / "main.py").write_text(
        "import sys\n"
        "import numpy as np\n"
        "import evaluation\n"
        "from evaluation import compute_bboxes_from_scoremaps\n"
        "from helper import cast\n"
        "if __name__ == '__main__':\n"
        "    print(evaluation.__name__, sys.argv)\n"
        "    print(compute_bboxes_from_scoremaps(cast(np.eye(4)), [0.5])[0][0].tolist())\n"
        "    sys.exit(7)\n"
    )
    done = run("-m", "wsolfast.compat.wsolevaluation", tmp_path / "main.py", "--lr", "0.1")
    assert done.returncode == 7, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"wsolfast.compat.wsolevaluation {[str(tmp_path / 'main.py'), '--lr', '0.1']}"
    assert second == "[[0, 0, 3, 3]]"


class Maps(torch.nn.Module):
    """Sums the colours of 32 x 32 patches."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, images, targets, return_cam=False):
        assert return_cam
        assert not self.training
        return self.scale * torch.nn.functional.avg_pool2d(images, 32).sum(1)


def test_maps_of_a_model_are_resized_normalized_kept_and_evaluated(metadata_root, tmp_path, capsys):
    images = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    images[3] = 0
    loader = [(images[:3], torch.zeros(3), tuple(SIZES)[:3]), (images[3:], torch.zeros(1), tuple(SIZES)[3:])]
    computer = drop_in.CAMComputer(
        model=Maps(),
        loader=loader,
        metadata_root=str(metadata_root / "CUB" / "test"),
        mask_root="",
        iou_threshold_list=[30, 50, 70],
        dataset_name="CUB",
        split="test",
        multi_contour_eval=True,
        cam_curve_interval=0.1,
        log_folder=str(tmp_path / "log"),
    )
    found = computer.compute_and_evaluate_cams()
    assert capsys.readouterr().out == "Computing and evaluating cams.\n"
    assert computer.evaluator.cnt == len(BOXES)
    assert found == computer.evaluator.compute()
    cams = 2 * torch.nn.functional.avg_pool2d(images, 32).sum(1)
    for cam, image_id in zip(cams.double().numpy(), SIZES, strict=True):
        wanted = cv2.resize(cam, (224, 224), interpolation=cv2.INTER_CUBIC)
        wanted = (wanted - wanted.min()) / (wanted - wanted.min()).max() if wanted.any() else wanted
        np.testing.assert_array_equal(np.load(tmp_path / "log" / "scoremaps" / f"{image_id}.npy"), wanted)


def test_t2n_takes_every_floating_type():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        array = drop_in.t2n(torch.tensor([0.5, 2.0], dtype=dtype, requires_grad=True))
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, [0.5, 2.0])


class Boxes(drop_in.CamDataset):
    """A user's data set that cuts boxes where the maps are read."""

    def __getitem__(self, index):
        scores, image_id = super().__getitem__(index)
        return np.concatenate(drop_in.compute_bboxes_from_scoremaps(scores, [0.2, 0.5])[0]), image_id


def test_boxes_are_cut_in_loader_workers(scoremap_root):
    loader = torch.utils.data.DataLoader(Boxes(str(scoremap_root), list(SIZES)), batch_size=2, num_workers=2)
    found = [(boxes, image_id) for batch in loader for boxes, image_id in zip(*batch, strict=True)]
    assert [image_id for _, image_id in found] == list(SIZES)
    for boxes, image_id in found:
        here = drop_in.compute_bboxes_from_scoremaps(np.load(scoremap_root / f"{image_id}.npy"), [0.2, 0.5])[0]
        np.testing.assert_array_equal(boxes, np.concatenate(here))


@pytest.mark.realdata
def test_the_published_center_gaussian_comes_out(real_data):
    """59.7 on CUB: MaxBoxAcc of the same map for every image."""
    evaluator = drop_in.BoxEvaluator(
        metadata=drop_in.configure_metadata(str(real_data / "wsol_metadata" / "metadata" / "CUB" / "test")),
        dataset_name="CUB",
        split="test",
        cam_threshold_list=list(np.arange(0, 1, 0.001)),
        iou_threshold_list=[50],
        mask_root="",
        multi_contour_eval=False,
    )
    side = np.arange(224) - 112.0
    score_map = drop_in.normalize_scoremap(np.exp(-(side[:, None] ** 2 + side**2) / (2 * 56**2)))
    for image_id in evaluator.image_ids:
        evaluator.accumulate(score_map, image_id)
    assert round(evaluator.compute()[0], 1) == 59.7
