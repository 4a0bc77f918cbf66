"""CSoA against numbers worked by hand, loops in float64, and what its equations promise."""

import copy
import math
from typing import get_args

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn import functional

from wsolfast import backbones, ops
from wsolfast.backbones import AlexNetEmbedding, BackboneError, WeightsError
from wsolfast.methods._csoa_losses import co_supervised_loss
from wsolfast.methods._embedding import Embedding, MaskedEmbedding, embed_features, embed_images
from wsolfast.methods.csoa import CSoA, combine_branches
from wsolfast.metrics import get_protocol
from wsolfast.metrics.functional import predicted_boxes
from wsolfast.types import Batch, TrainState

F64 = {"dtype": torch.float64}


def seeded(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), **F64)


def build(**options):
    torch.manual_seed(0)
    options = {"head": "linear", "embedding": "features"} | options
    return CSoA(backbones.build("small", layout="stride8"), 5, **options)


class TestRanks:
    @pytest.mark.slow
    def test_two_ranks_have_the_gradients_of_one_process(self, tmp_path):
        vectors, label = seeded(6, 3, 4).requires_grad_(), torch.tensor([0, 1, 0, 1, 1, 2])
        loss = co_supervised_loss(vectors, label, reduction="mean")
        (grad,) = torch.autograd.grad(loss, vectors)
        multiprocessing.spawn(_half_of_the_pairs, (tmp_path, vectors.detach(), label), nprocs=2)
        for rank in range(2):
            found_loss, found_grad = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
            torch.testing.assert_close(found_loss, loss.detach())
            # Halved where the ranks' gradients are averaged.
            torch.testing.assert_close(found_grad / 2, grad[3 * rank : 3 * rank + 3])


def _half_of_the_pairs(rank, folder, vectors, label):
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    mine = slice(3 * rank, 3 * rank + 3)
    own = vectors[mine].clone().requires_grad_()
    loss = co_supervised_loss(own, label[mine], reduction="mean")
    (grad,) = torch.autograd.grad(loss, own)
    torch.save((loss.detach(), grad), folder / f"{rank}.pt")
    distributed.destroy_process_group()


class TestEmbedding:
    def test_pooled_masked_features(self):
        features, soft = seeded(2, 5, 3, 4), seeded(2, 3, 4).sigmoid()
        mask = ops.confidence_mask(soft)
        vectors = embed_features(features, soft, mask)
        for at, weight in enumerate((soft, 1 - soft, (1 - soft) * mask)):
            total = (features * weight[:, None]).sum((2, 3))
            torch.testing.assert_close(vectors[:, at] * (weight.sum((1, 2)) + 1e-6)[:, None], total)

    def test_an_empty_region_has_a_zero_vector(self):
        vectors = embed_features(torch.ones(1, 2, 3, 3), torch.ones(1, 3, 3), torch.ones(1, 3, 3))
        torch.testing.assert_close(vectors, torch.tensor([[[1.0, 1.0], [0, 0], [0, 0]]]))

    def test_masked_images_are_mean_coloured(self):
        image, mean = torch.rand(2, 3, 8, 8, **F64), torch.tensor([0.1, 0.2, 0.3], **F64)[None, :, None, None]
        seen = []
        embed_images(lambda x: (seen.append(x), x.mean((2, 3)))[1], mean, image, *torch.zeros(2, 2, 4, 4, **F64))
        foreground, background, confident = seen[0].unflatten(0, (2, 3)).unbind(1)
        torch.testing.assert_close(foreground, mean.expand_as(image))
        torch.testing.assert_close(background, image)
        torch.testing.assert_close(confident, mean.expand_as(image))

    def test_masks_reach_the_image_bilinear_and_nearest(self):
        soft, mask = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
        seen = []
        white = torch.ones(1, 3, 1, 4)
        embed_images(lambda x: (seen.append(x[:, 0, 0]), x.mean((2, 3)))[1], torch.zeros(1, 3, 1, 1), white, soft, mask)
        assert seen[0].tolist() == [[0, 0.25, 0.75, 1], [1, 0.75, 0.25, 0], [1, 0.75, 0, 0]]

    @pytest.mark.parametrize("kind", ["backbone", "alexnet_conv5"])
    def test_gradients_reach_the_map_alone(self, kind):
        backbone = backbones.build("small", layout="stride8").train()
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        soft = torch.full((2, 8, 8), 0.5, requires_grad=True)
        image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
        vectors = MaskedEmbedding(kind, "none")(backbone, image, None, soft, torch.ones(2, 8, 8))
        vectors[:, 0].norm(dim=1).sum().backward()
        assert vectors.shape[:2] == (2, 3)
        assert soft.grad.abs().sum() > 0
        assert all(parameter.grad is None for parameter in backbone.parameters())
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        assert backbone.training

    def test_alexnet_layers(self, tmp_path):
        image = torch.rand(2, 3, 64, 96)
        state = torch.get_rng_state()
        net = AlexNetEmbedding("conv5", "none").train()
        assert torch.equal(state, torch.get_rng_state())
        assert not net.training
        assert net(image).shape == (2, 256)
        torch.save(net.state_dict(), tmp_path / "alexnet.pth")
        flat = AlexNetEmbedding("conv5_flat", str(tmp_path / "alexnet.pth"))
        assert flat(image).shape == (2, 9216)
        pooled = functional.max_pool2d(net.features((image - net.input_mean) / net.input_std), 3, 2)
        torch.testing.assert_close(flat(image), functional.adaptive_avg_pool2d(pooled, 6).flatten(1))
        with pytest.raises(WeightsError, match="does not fit AlexNet"):
            AlexNetEmbedding("fc7", str(tmp_path / "alexnet.pth"))
        with pytest.raises(BackboneError, match="no layer 'fc8'"):
            AlexNetEmbedding("fc8", "none")


class TestCombination:
    late = torch.tensor([[[[0, 1, 2], [3, 10, 2], [0, 1, 0]]]], **F64)
    early = torch.tensor([[[[4, 0, 0], [0, 1, 0], [0, 0, 5]]]], **F64)

    def test_golden_union_is_the_diagonal(self):
        combined = combine_branches([self.late, self.early], "union")
        assert (combined > 0.3).nonzero()[:, 2:].tolist() == [[0, 0], [1, 1], [2, 2]]
        boxes = predicted_boxes(combined[0], torch.tensor([[3, 3]]), get_protocol("csoa"), 0.3)
        assert boxes[0].tolist() == [[0, 0, 3, 3]]  # one region, because diagonal neighbours touch

    def test_intersection_needs_both(self):
        combined = combine_branches([self.late, self.early], "intersection")
        assert (combined > 0.15).nonzero()[:, 2:].tolist() == [[1, 1]]
        for theta, box in ((0.15, [1, 1, 2, 2]), (0.3, [0, 0, 3, 3])):  # nothing above 0.3: the whole image
            boxes = predicted_boxes(combined[0], torch.tensor([[3, 3]]), get_protocol("csoa_intersection"), theta)
            assert boxes[0].tolist() == [box]

    @pytest.mark.parametrize("theta", [0.0, 0.2, 0.5, 0.9])
    def test_cut_of_the_union_is_the_union_of_cuts(self, theta):
        maps = seeded(2, 4, 3, 5, 6)
        cuts = torch.stack([m > theta * m.amax((-2, -1), keepdim=True) for m in maps])
        assert torch.equal(combine_branches(list(maps), "union") > theta, cuts.any(0))
        assert torch.equal(combine_branches(list(maps), "intersection") > theta, cuts.all(0))

    def test_a_branch_without_positive_values_sees_nothing(self):
        combined = combine_branches([-self.late, self.early], "union")
        torch.testing.assert_close(combined, self.early / 5)
        assert combine_branches([-self.late, 0 * self.early], "union").sum() == 0


class TestMethod:
    def test_the_early_head_may_be_deeper_than_the_late_one(self, batch):
        net = build(early_head="conv3", hidden_channels=8)
        assert (len(net.late_head.hidden), net.early_head.classifier.in_channels) == (0, 8)
        assert net.localize(batch.image, batch.label, 0).localization_map.shape[:2] == (6, 1)

    def test_losses_read_the_full_maps(self, batch):
        net = build(conf_schedule="constant", conf_weight=0.7, co_weight=0.3, conf_reduction="sum").train()
        losses = net.training_step(batch, TrainState(0, 1, 0, 1))
        features = net.backbone(batch.image)
        late, early = net.late_head.class_maps(features["conv5"]), net.early_head.class_maps(features["conv4"])
        classification = [functional.cross_entropy(maps.mean((2, 3)), batch.label) for maps in (late, early)]
        late, early = (maps[torch.arange(6), batch.label] for maps in (late, early))
        mask = ops.confidence_mask(late)
        conf = ((early - late).abs() * mask).sum((1, 2)).mean()
        low, high = late.amin((1, 2), keepdim=True), late.amax((1, 2), keepdim=True)
        vectors = embed_features(features["conv5"], (late - low) / (high - low + 1e-6), mask)
        co = co_supervised_loss(vectors, batch.label, reduction="mean")
        torch.testing.assert_close(losses["loss_conf"], conf)
        torch.testing.assert_close(losses["loss_co"], co)
        torch.testing.assert_close(losses["loss"], sum(classification) + 0.7 * conf + 0.3 * co)

    def test_conf_seg_moves_the_early_head_and_co_aug_the_late_one(self, batch, state):
        for name, moved, still in (("loss_conf", "early_head", "late_head"), ("loss_co", "late_head", "early_head")):
            net = build(conf_schedule="constant").train()
            net.training_step(batch, state)[name].backward()
            assert getattr(net, moved).classifier.weight.grad.abs().sum() > 0
            assert getattr(net, still).classifier.weight.grad is None

    @pytest.mark.parametrize("options", [{"conf_seg": False}, {"co_aug": False}, {"conf_seg": False, "co_aug": False}])
    def test_ablations_leave_parts_out(self, options, batch, state):
        net = build(**options).train()
        losses = net.training_step(batch, state)
        assert ("loss_conf" in losses) == ("loss_cls_early" in losses) == options.get("conf_seg", True)
        assert ("loss_co" in losses) == options.get("co_aug", True)
        losses["loss"].backward()
        assert all(parameter.grad is not None for parameter in net.parameters())
        assert net.eval().localize(batch.image).localization_map.shape == (6, 1, 8, 8)

    @pytest.mark.parametrize("label", [[1] * 6, [0, 1, 2, 3, 4, 4]])
    @pytest.mark.parametrize("foreground", ["minmax", "minmax_detached", "sigmoid"])
    def test_any_mixture_of_classes_gives_finite_gradients(self, label, foreground, batch, state):
        net = build(co_foreground=foreground).train()
        net.training_step(Batch(batch.image, torch.tensor(label), batch.image_id), state)["loss"].backward()
        assert all(parameter.grad.isfinite().all() for parameter in net.parameters())

    @pytest.mark.parametrize("embedding", ["features", "backbone", "alexnet_conv5"])
    def test_bfloat16_training_is_near_float32(self, embedding, batch, state):
        net = build(embedding=embedding, embedding_weights="none").train().to(memory_format=torch.channels_last)
        exact = copy.deepcopy(net).training_step(batch, state)  # a copy, because statistics of batch norms move
        with torch.autocast("cpu", torch.bfloat16):
            losses = net.training_step(batch, state)
        losses["loss"].backward()
        assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
        # Eight bits of mantissa through ten layers; a position may change sides of the confidence mask.
        for name, value in exact.items():
            torch.testing.assert_close(losses[name].float(), value, rtol=0.1, atol=0.02)

    def test_detached_minmax_has_the_same_values(self, batch, state):
        nets = (build(co_foreground=kind) for kind in ("minmax", "minmax_detached"))
        torch.testing.assert_close(*(net.training_step(batch, state)["loss_co"] for net in nets))

    @pytest.mark.parametrize(
        ("schedule", "weights"),
        [
            ("linear", [0.0, 0.0, 1.0, 1.0]),
            ("linear_step", [0.0, 0.25, 0.5, 0.75]),
            ("exp", [math.exp(-5 * (1 - t) ** 2) for t in (0, 0.25, 0.5, 0.75)]),
            ("constant", [1.0] * 4),
        ],
    )
    def test_conf_weight_grows(self, schedule, weights):
        net = build(conf_schedule=schedule, conf_weight=2.0)
        found = [net.conf_alpha(TrainState(step // 2, 2, step, 4)) for step in range(4)]
        assert found == pytest.approx([2 * weight for weight in weights])
        if schedule == "linear":
            assert net.conf_alpha(TrainState(0, 1, 0, 4)) == 2

    @torch.no_grad()
    def test_scores_and_map_sizes(self, batch):
        late, mean = build().eval(), build(scores="mean", map_size="input").eval()
        features = late.backbone(batch.image)
        logits = [late.late_head.logits(features["conv5"]), late.early_head.logits(features["conv4"])]
        torch.testing.assert_close(late.classify(batch.image), logits[0])
        found = mean.localize(batch.image, topk=2)
        torch.testing.assert_close(found.logits, (logits[0] + logits[1]) / 2)
        assert torch.equal(found.classes, found.logits.topk(2).indices)
        assert found.localization_map.shape == (6, 2, 64, 64)
        assert (found.localization_map.amax((2, 3)) <= 1).all()

    @pytest.mark.parametrize("early", ["conv4", "conv5"])
    def test_head_positions(self, early, batch):
        net = build(early=early)
        channels = {stage.name: stage.channels for stage in net.backbone.stages}
        assert net.early_head.classifier.in_channels == channels[early]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"early": "conv2"}, "csoa: early: 'conv2' has stride 4, 'conv5' has 8; choose among conv3, conv4, conv5"),
            ({"early": "conv9"}, "csoa: early: this backbone has the stages conv2, "),
            ({"late": "Mixed_6e"}, "csoa: late: this backbone has the stages conv2, "),
            ({"classes_per_batch": -1}, "csoa: classes_per_batch: expected at least 1"),
        ],
    )
    def test_wrong_options_say_so(self, options, message):
        with pytest.raises(ValueError, match=message):
            build(**options)

    def test_no_embedding_is_part_of_a_checkpoint(self):
        keys = [set(build(embedding=kind).state_dict()) for kind in get_args(Embedding)]
        assert keys == [keys[0]] * len(get_args(Embedding))
