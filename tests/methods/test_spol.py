"""SPOL against its equations written out in float64, and what its options promise."""

import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional

from wsolfast import backbones, ops
from wsolfast.backbones import StageInfo
from wsolfast.data import Placement, Sample
from wsolfast.engine.training.artefacts import Collate
from wsolfast.methods._mff import ChannelAttention, DescriptorNorm, MFFNet, RectifiedHead
from wsolfast.methods._spol_losses import distillation_loss, segmentation_loss
from wsolfast.methods.spol import SPOLCam, SPOLSeg
from wsolfast.testing import assert_close, seeded
from wsolfast.types import Batch, TrainState

F64 = torch.float64
STATE = TrainState(epoch=0, epochs=1, step=0, steps=10)
# Three stages of 12, 6 and 3 cells, as ResNet50's 28, 14 and 7.
STAGES = (StageInfo("conv3", 5, 8), StageInfo("conv4", 7, 16), StageInfo("conv5", 9, 32))


def features_of(stages=STAGES, n=3, dtype=F64):
    return {s.name: seeded((n, s.channels, 96 // s.stride, 80 // s.stride), dtype=dtype, seed=s.stride) for s in stages}


def randomized(module):
    """In float64, with batch norms as they are after training, in eval mode."""
    torch.manual_seed(1)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            for tensor in (child.weight, child.bias, child.running_mean, child.running_var):
                tensor.data.uniform_(0.5, 1.5)
    return module.to(F64).eval()


def small(cls=SPOLCam, num_classes=4, **options):
    torch.manual_seed(0)
    return cls(backbones.build("small", layout="stride16"), num_classes, **{"width": 8} | options)


def batch_of(n=4, side=64, mask=None):
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
    return Batch(image, torch.arange(n) % 4, tuple("abcdefgh"[:n]), mask)


def upsampling(m, n):
    """Return the matrix that resizes n cells to m with aligned corners."""
    matrix = torch.zeros(m, n, dtype=F64)
    for i in range(m):
        t = i * (n - 1) / (m - 1)
        j = min(math.floor(t), n - 1)
        matrix[i, j] += 1 - (t - j)
        matrix[i, min(j + 1, n - 1)] += t - j
    return matrix


def batch_norm(x, norm):
    """[N, C, ...] by its running statistics."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    mean, var, weight, bias = (t.view(shape) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


class TestFusion:
    @torch.no_grad()
    def test_attention_is_the_formula(self):
        attention = randomized(ChannelAttention([5, 7, 9], 4))
        features = list(features_of().values())
        for n in range(3):
            latent = [1.0] * 4
            for stage, squeeze, norm in zip(features, attention.squeeze, attention.norm, strict=True):
                pooled = [float(sum(channel.flatten().tolist())) / channel.numel() for channel in stage[n]]
                for k in range(4):
                    z = float(squeeze.bias[k]) + sum(
                        float(squeeze.weight[k, c, 0, 0]) * pooled[c] for c in range(len(pooled))
                    )
                    z = (z - float(norm.running_mean[k])) / math.sqrt(float(norm.running_var[k]) + 1e-5)
                    latent[k] *= max(0.0, z * float(norm.weight[k]) + float(norm.bias[k]))
            for weights, excite in zip(attention(features), attention.excite, strict=True):
                for c, weight in enumerate(weights[n].flatten().tolist()):
                    z = float(excite.bias[c]) + sum(float(excite.weight[c, k, 0, 0]) * latent[k] for k in range(4))
                    assert weight == pytest.approx(1 / (1 + math.exp(-z)), abs=1e-12)

    @pytest.mark.parametrize("fuse_op", ["multiply", "add", "concat"])
    def test_trunk_is_the_formula(self, fuse_op):
        trunk = randomized(MFFNet(SimpleNamespace(stages=STAGES), width=4, fuse_op=fuse_op))
        features = features_of()
        resized = []
        for weight, stage, reduce in zip(
            trunk.attention(list(features.values())), features.values(), trunk.reduce, strict=True
        ):
            conv, norm, _ = reduce
            reduced = torch.einsum("kc,nchw->nkhw", conv.weight[:, :, 0, 0], weight * stage)
            reduced = batch_norm(reduced + conv.bias[:, None, None], norm).relu()
            rows, columns = upsampling(12, stage.shape[2]), upsampling(10, stage.shape[3])
            resized.append(rows @ reduced @ columns.T)
        expected = {
            "multiply": resized[0] * resized[1] * resized[2],
            "add": sum(resized),
            "concat": torch.cat(resized, 1),
        }[fuse_op]
        found = trunk(features)
        assert_close(found.fused, expected)
        assert found.fused.shape[1] == trunk.channels
        assert_close(found.deep, reduced)

    # A batch norm folded into two numbers and a gate into weights round elsewhere than their steps.
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-12)])
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
    @pytest.mark.parametrize("options", [{}, {"fuse_op": "add"}, {"mca": False}, {"fuse_stages": 2}], ids=str)
    @torch.no_grad()
    def test_evaluation_folds_what_training_does_step_by_step(self, options, layout, dtype, tolerance):
        # Of the three stages two have more positions than the weight has rows, which decides where the gate goes.
        trunk = randomized(MFFNet(SimpleNamespace(stages=STAGES), width=16, **options)).to(dtype)
        features = {name: x.to(memory_format=layout) for name, x in features_of(dtype=dtype).items()}
        used = [features[name] for name in trunk.stages]
        gates = [None] * len(used) if trunk.attention is None else trunk.attention(used)
        gated = [stage if gate is None else gate * stage for stage, gate in zip(used, gates, strict=True)]
        reduced = [branch(stage) for branch, stage in zip(trunk.reduce, gated, strict=True)]
        found = trunk(features)
        assert_close(found.fused, ops.multiplicative_fusion(reduced, mode=trunk.fuse_op), tolerance)
        assert_close(found.deep, reduced[-1], tolerance)
        assert found.fused.is_contiguous(memory_format=layout)

    @torch.no_grad()
    def test_it_is_the_batch_norms_that_are_in_evaluation(self):
        trunk, features = randomized(MFFNet(SimpleNamespace(stages=STAGES), width=4)), features_of()
        expected = trunk(features).fused
        trunk.train()
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert torch.equal(trunk(features).fused, expected)
        trunk.reduce[0][1].train()
        assert not torch.allclose(trunk(features).fused, expected)

    def test_gradients(self):
        trunk = randomized(MFFNet(SimpleNamespace(stages=STAGES), width=2))
        inputs = [feature[:2].clone().requires_grad_() for feature in features_of().values()]
        names = [stage.name for stage in STAGES]
        assert gradcheck(lambda *x: tuple(trunk(dict(zip(names, x, strict=True)))), inputs, fast_mode=True)

    @pytest.mark.parametrize(("fuse_stages", "side"), [(1, 7), (2, 14), (3, 28), (4, 56)])
    def test_the_shallowest_stage_gives_the_resolution(self, fuse_stages, side):
        with torch.device("meta"):
            method = SPOLCam(backbones.build("resnet50"), 5, fuse_stages=fuse_stages).eval()
            found = method.localize(torch.empty(1, 3, 224, 224), topk=2)
        assert found.localization_map.shape == (1, 2, side, side)

    @pytest.mark.parametrize("backbone", ["mobilenet_v2", "vgg16"])
    def test_other_backbones_fit(self, backbone):
        with torch.device("meta"):
            for cls in (SPOLCam, SPOLSeg):
                method = cls(backbones.build(backbone), 5).eval()
                label = torch.zeros(1, dtype=torch.int64)
                found = method.localize(torch.empty(1, 3, 224, 224), label, topk=0)
                assert found.localization_map.shape[:2] == (1, 1)

    def test_a_batch_of_one_is_normalised_by_running_statistics(self):
        norm = randomized(DescriptorNorm(4)).train()
        one = seeded((1, 4, 1, 1), dtype=F64)
        assert_close(norm(one), batch_norm(one, norm))
        before = norm.running_mean.clone()
        two = norm(torch.cat([one, one + 1]))
        assert not torch.equal(norm.running_mean, before)
        assert_close(two.sum(0).flatten(), 2 * norm.bias)


def test_parameter_counts_of_the_specification():
    with torch.device("meta"):
        cam, seg = (cls(backbones.build("resnet50"), 200) for cls in (SPOLCam, SPOLSeg))

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(cam) == 24_915_976
    assert count(cam) - count(cam.backbone) == 1_407_944
    assert count(cam.fusion.attention) == 922_240
    assert count(cam.fusion.reduce) == 459_904
    assert count(cam.head) == 25_800
    assert count(seg) - count(seg.backbone) == 1_407_944 - 25_800 + 129


def test_new_convolutions_start_kaiming_normal_by_fan_in():
    method = small(width=64)
    for name, module in [*method.fusion.named_modules(), *method.head.named_modules()]:
        if isinstance(module, nn.Conv2d):
            assert (module.bias == 0).all(), name
            expected = math.sqrt(2 / module.in_channels)
            if module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name


class TestHead:
    @pytest.mark.parametrize("relu", [True, False])
    def test_logits_are_means_of_class_maps(self, relu):
        head = RectifiedHead(4, 3, relu=relu).to(F64).eval()
        fused = seeded((2, 4, 5, 6), dtype=F64)
        maps = torch.einsum("kc,nchw->nkhw", head.classifier.weight[:, :, 0, 0], fused)
        maps = maps + head.classifier.bias[:, None, None]
        assert_close(head.logits(fused), (maps.relu() if relu else maps).mean((2, 3)))
        classes = torch.tensor([[2, 0], [1, 1]])
        chosen = torch.stack([maps[0, [2, 0]], maps[1, [1, 1]]])
        assert_close(head.maps_of(fused, classes), chosen.relu())

    def test_dropout_is_for_training_only(self):
        head, fused = RectifiedHead(4, 3, dropout=0.5), seeded((2, 4, 5, 6)).abs()
        assert not torch.equal(head.train().logits(fused), head.logits(fused))
        assert torch.equal(head.eval().logits(fused), head.logits(fused))


class TestClassificationLosses:
    LOGITS, AUX = seeded((3, 5), dtype=F64), seeded((3, 5), dtype=F64, seed=1)

    def test_distillation_by_a_loop(self):
        expected = 0.0
        for z, t in zip(self.LOGITS.tolist(), self.AUX.tolist(), strict=True):
            weights = [math.exp(value) for value in t]
            log_sum = math.log(sum(math.exp(value) for value in z))
            expected -= sum(w / sum(weights) * (value - log_sum) for w, value in zip(weights, z, strict=True)) / 3
        assert distillation_loss(self.LOGITS, self.AUX).item() == pytest.approx(expected, abs=1e-12)

    def test_distillation_leaves_its_teacher_alone(self):
        logits, aux = self.LOGITS.clone().requires_grad_(), self.AUX.clone().requires_grad_()
        distillation_loss(logits, aux).backward()
        assert aux.grad is None
        assert_close(logits.grad, (logits.softmax(1) - aux.softmax(1)).detach() / 3)

    @pytest.mark.parametrize("loss", ["paper", "distill", "cls_only"])
    def test_what_a_step_adds_up(self, loss):
        method, batch = small(loss=loss, dropout=0.0), batch_of()
        features = method.backbone(batch.image)
        fused, deep = method.fusion(features)
        resized = functional.interpolate(deep, fused.shape[2:], mode="bilinear", align_corners=True)
        logits, aux = (method.head.classifier(x).relu().mean((2, 3)) for x in (fused, resized))
        hard = [functional.cross_entropy(x, batch.label) for x in (logits, aux)]
        soft = -(aux.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        expected = {"paper": hard[0] + hard[1], "distill": (hard[1] + soft) / 2, "cls_only": hard[0]}[loss]
        found = method.training_step(batch, STATE)
        assert_close(found["loss"], expected)
        assert (
            set(found) - {"accuracy"}
            == {
                "paper": {"loss", "loss_aux", "loss_cls"},
                "distill": {"loss", "loss_aux", "loss_distill"},
                "cls_only": {"loss"},
            }[loss]
        )

    def test_hard_labels_reach_the_fused_branch_through_the_deep_one_only(self):
        method, batch = small(loss="distill", dropout=0.0), batch_of()
        losses = method.training_step(batch, STATE)
        shallow = method.fusion.reduce[0][0].weight
        (of_aux,) = torch.autograd.grad(losses["loss_aux"], shallow, retain_graph=True, allow_unused=True)
        (of_soft,) = torch.autograd.grad(losses["loss_distill"], shallow)
        assert of_aux is None
        assert of_soft.any()

    @pytest.mark.parametrize(
        ("options", "own"),
        [
            ({}, False),
            ({"aux_source": "R5"}, False),
            ({"aux_source": "O5"}, True),
            ({"fuse_op": "concat"}, True),
            ({"loss": "cls_only", "aux_source": "O5"}, False),
        ],
    )
    def test_the_auxiliary_head_is_shared_where_it_fits(self, options, own):
        method = small(**options)
        assert (method.aux_head is not None) == own
        assert method.training_step(batch_of(), STATE)["loss"].isfinite()

    def test_sources_of_the_auxiliary_loss_differ(self):
        losses = [
            small(aux_source=source, dropout=0.0).training_step(batch_of(), STATE)["loss_aux"].item()
            for source in ("U5", "R5", "O5")
        ]
        assert len(set(losses)) == 3


class TestSegmentationLoss:
    def test_by_a_loop(self):
        logits, labels = seeded((2, 1, 3, 4), dtype=torch.float32), torch.zeros(2, 7, 9, dtype=torch.uint8)
        labels.random_(0, 3, generator=torch.Generator().manual_seed(0))
        labels[labels == 2] = 255
        rows, columns = upsampling(7, 3), upsampling(9, 4)
        total = 0.0
        for z, label in zip((rows @ logits[:, 0].double() @ columns.T).tolist(), labels.tolist(), strict=True):
            for y in range(7):
                for x in range(9):
                    p = 1 / (1 + math.exp(-z[y][x]))
                    total -= {0: math.log(1 - p), 1: math.log(p), 255: 0.0}[label[y][x]]
        assert segmentation_loss(logits, labels).item() == pytest.approx(total / (2 * 7 * 9), rel=1e-5)

    def test_the_divisor_counts_ignored_pixels(self):
        logits, labels = torch.zeros(1, 1, 2, 2), torch.full((1, 4, 4), 255, dtype=torch.uint8)
        labels[0, 0, :2] = torch.tensor([0, 1], dtype=torch.uint8)
        assert segmentation_loss(logits, labels).item() == pytest.approx(math.log(2) * 2 / 16)

    def test_nothing_known_costs_nothing(self):
        logits = seeded((2, 1, 3, 3)).requires_grad_()
        loss = segmentation_loss(logits, torch.full((2, 8, 8), 255, dtype=torch.uint8))
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


class TestMaps:
    def test_class_maps_are_shares_of_their_peak(self):
        method, batch = small().eval(), batch_of()
        with torch.no_grad():
            found = method.localize(batch.image, batch.label, topk=1)
            exported = method.export(batch)["pseudo_mask"]
        fused = method.fusion(method.backbone(batch.image)).fused
        raw = method.head.classifier(fused).relu()[torch.arange(4), batch.label]
        expected = raw / (raw.amax((1, 2), keepdim=True) + 1e-6)
        assert_close(found.localization_map[:, 0], expected)
        assert exported.dtype == torch.float16
        assert_close(exported, expected)

    def test_a_map_without_a_positive_value_stays_zero(self):
        method, batch = small().eval(), batch_of()
        nn.init.constant_(method.head.classifier.bias, -1e6)
        with torch.no_grad():
            assert not method.export(batch)["pseudo_mask"].any()
            assert not method.localize(batch.image).localization_map.any()

    def test_masks_are_probabilities_at_the_size_of_the_image(self):
        method, batch = small(SPOLSeg).eval(), batch_of()
        with torch.no_grad():
            found = method.localize(batch.image, batch.label, topk=3)
            logits = method.head(method.fusion(method.backbone(batch.image)).fused)
        assert found.logits is None
        assert found.classes.tolist() == [[0], [1], [2], [3]]
        resized = functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=True)
        assert_close(found.localization_map, resized.sigmoid())
        assert (method.localize(batch.image).classes == -1).all()

    def test_the_switches_change_the_maps(self):
        batch, maps = batch_of(), []
        for options in ({}, {"fuse_op": "add"}, {"fuse_op": "concat"}, {"mca": False}, {"fuse_stages": 2}):
            with torch.no_grad():
                maps.append(small(**options).eval().localize(batch.image, batch.label).localization_map)
        for i, one in enumerate(maps):
            assert all(one.shape != other.shape or not torch.equal(one, other) for other in maps[:i])


class TestLabels:
    """Class map over a 40 x 32 image to labels of a 24 x 16 view of it."""

    CAM = functional.interpolate(seeded((1, 1, 3, 4)).relu(), (8, 10), mode="bilinear")[0, 0].half()

    def view(self, flip, offset=(7, 5), prior="paper", **options):
        placement = Placement((80, 64), (24, 16), (0.5, 0.5), offset, flip)
        sample = Sample(torch.zeros(3, 16, 24, dtype=torch.uint8), 0, "a", 0, placement)
        maker = small(SPOLSeg, prior=prior, prior_options=options).mask_maker()
        return Collate({"pseudo_mask": self.CAM[None]}, pickle.loads(pickle.dumps(maker)))([sample]).pseudo_mask[0]

    @pytest.mark.parametrize("prior", ["paper", "released"])
    def test_labels_follow_crop_and_flip_exactly(self, prior):
        whole = ops.gaussian_prior_labels(self.CAM[None], (32, 40), prior=prior)[0]
        assert len(whole.unique()) == 3
        for offset in ((0, 0), (7, 5), (16, 16)):
            x, y = offset
            expected = whole[y : y + 16, x : x + 24]
            assert torch.equal(self.view(False, offset, prior), expected)
            assert torch.equal(self.view(True, offset, prior), expected.flip(1))

    def test_the_priors_options_reach_the_labels(self):
        found = {
            str(options): self.view(False, **options)
            for options in ({}, {"source": "cam"}, {"source": "gaussian"}, {"object_threshold": 0.1})
        }
        values = list(found.values())
        for i, one in enumerate(values):
            assert not any(torch.equal(one, other) for other in values[:i])
        assert set(found["{'source': 'gaussian'}"].unique().tolist()) <= {0, 1}

    def test_an_empty_map_teaches_nothing(self):
        maker = small(SPOLSeg).mask_maker()
        labels = maker(torch.zeros(8, 8, dtype=torch.float16), (64, 64))
        assert (labels == 255).all()
        method = small(SPOLSeg)
        loss = method.training_step(batch_of(mask=labels.expand(4, -1, -1)), STATE)["loss"]
        loss.backward()
        assert loss == 0
        assert not any(p.grad is not None and p.grad.any() for p in method.parameters())
        told = small(SPOLSeg, prior_options={"empty": "background"}).mask_maker()
        assert (told(torch.zeros(8, 8), (64, 64)) == 0).all()

    def test_a_map_that_is_not_finite_is_refused(self):
        with pytest.raises(ValueError, match="expected finite maps"):
            small(SPOLSeg).mask_maker()(torch.full((4, 4), torch.nan), (8, 8))


@pytest.mark.parametrize("cls", [SPOLCam, SPOLSeg])
def test_a_frozen_stem_is_not_trained_but_its_statistics_move(cls):
    method = small(cls, freeze_stem=True).train()
    frozen = [name for name, parameter in method.named_parameters() if not parameter.requires_grad]
    assert frozen == ["backbone.stem.0.weight", "backbone.stem.1.weight", "backbone.stem.1.bias"]
    before = method.backbone.stem[1].running_mean.clone()
    method.training_step(batch_of(mask=torch.zeros(4, 64, 64, dtype=torch.uint8)), STATE)
    assert not torch.equal(method.backbone.stem[1].running_mean, before)


@pytest.mark.parametrize("cls", [SPOLCam, SPOLSeg])
def test_a_step_in_bfloat16_is_near_one_in_float32(cls):
    batch, losses = batch_of(mask=torch.ones(4, 64, 64, dtype=torch.uint8)), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(small(cls, dropout=0.0).training_step(batch, STATE)["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03)  # 8 bits of mantissa through some ten layers


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (SPOLCam, {"fuse_stages": 5}, "fuse_stages: expected 1 to 4"),
        (SPOLSeg, {"fuse_stages": 0}, "fuse_stages: expected 1 to 4"),
        (SPOLSeg, {"prior_options": {"gate": 2.0}}, "gate must be in"),
    ],
)
def test_options_that_cannot_be_meant_are_named(cls, options, message):
    with pytest.raises(ValueError, match=message):
        small(cls, **options)


def test_masks_without_maps_are_refused():
    with pytest.raises(ValueError, match="give it uses ="):
        small(SPOLSeg).training_step(batch_of(), STATE)
