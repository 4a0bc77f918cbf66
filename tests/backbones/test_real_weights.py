"""The pretrained networks beside the checkout: complete loads, and real images named rightly."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast import backbones

pytestmark = pytest.mark.realdata

# File -> (backbone, layout, tensors that match, classes of its head, folded batch norms).
FILES = {
    "mobilenet_v2_backbone_torchvision_folded.pt": ("mobilenet_v2", "stride16", 260, None, True),
    "mobilenet_v2_imagenet_tf2_ptq_dequant.pt": ("mobilenet_v2", "tf_stride32", 260, 1000, True),
    "mobilenet_v2_inat_birds_dequant.pt": ("mobilenet_v2", "tf_stride16", 260, 965, True),
    "squeezenet1_1_imagenet.pt": ("squeezenet1_1", "stride16", 50, 1000, False),
}


@pytest.fixture
def labelled_images(real_data):
    """60 images, one per class, cropped to uint8 [60, 3, 224, 224], and their labels."""
    folder = real_data / "ilsvrc_val400_227"
    with (folder / "annotations.csv").open() as file:
        labels = {row["image"]: int(row["class_id"]) for row in csv.DictReader(file)}
    chosen = dict(list(labels.items())[::6][:60])
    images = np.stack([np.asarray(Image.open(folder / name).convert("RGB")) for name in chosen])
    # Cropped, not resized: resampling them once more costs 4 points of top-1.
    return torch.from_numpy(images).permute(0, 3, 1, 2)[:, :, 1:225, 1:225], torch.tensor(list(chosen.values()))


@pytest.mark.parametrize("file", FILES)
def test_every_tensor_finds_its_place(real_data, file):
    name, layout, matched, classes, folded = FILES[file]
    backbone = backbones.build(name, layout=layout, weights=str(real_data / "weights" / file)).eval()
    report = backbone.load_report
    assert (len(report.matched), report.classes, report.folded_bn) == (matched, classes, folded)
    assert (report.prefix, report.left_in_file) == ("", ())
    assert all(key.endswith("num_batches_tracked") for key in report.left_in_backbone)
    with torch.no_grad():
        for features in backbone(torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)).values():
            assert features.isfinite().all()
            assert features.std() > 0.01


@pytest.mark.parametrize(
    ("file", "known"), [("squeezenet1_1_imagenet.pt", 0.666), ("mobilenet_v2_imagenet_tf2_ptq_dequant.pt", 0.780)]
)
def test_classifiers_name_real_images(real_data, labelled_images, file, known):
    name, layout, *_ = FILES[file]
    backbone = backbones.build(name, layout=layout, weights=str(real_data / "weights" / file)).eval()
    images, labels = labelled_images
    with torch.no_grad():
        features = torch.cat([backbone(batch)["conv5"] for batch in images.split(15)])
    head = backbone.classifier
    maps = torch.einsum("kc,nchw->nkhw", head.weight, features) + head.bias[:, None, None]
    predicted = (maps.relu() if head.relu_maps else maps).mean((2, 3)).argmax(1)
    # ``known`` was measured on 1,300 such images; three deviations of a draw of 60. By chance: 0.1 %.
    tolerance = 3 * (known * (1 - known) / len(labels)) ** 0.5  # three standard errors
    assert (predicted == labels).float().mean() >= known - tolerance
