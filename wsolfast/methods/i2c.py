"""I²C: Zhang et al., "Inter-Image Communication for Weakly Supervised Localization", ECCV 2020.

Pixels of the object shall have like features in two images of one class, and like those of a slowly moving centre of
the class. Both are losses of training alone: the map is CAM's. It starts from a trained CAM network.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._across_ranks import of_every_process, place_in_batch
from wsolfast.methods._balanced_batches import BalancedBatches
from wsolfast.methods._base import MethodError, accuracy
from wsolfast.methods._cam_head import HeadKind
from wsolfast.methods._class_activation import ClassActivation
from wsolfast.types import Batch, TrainState

# Added to every difference of features, as released.
EPS = 1e-6


class I2C(ClassActivation):
    r"""CAM trained on pairs of images of one class, whose object pixels shall have like features.

    With :math:`f_j, f'_j` the features of the two images at their seeds j = 1..n, c the mean of all 2n of them and
    :math:`B_t` the centre of their class t,

    .. math:: \mathcal{L} = CE + \lambda_l \, \mathrm{mean}_{pairs, j} \lVert f_j - f'_j \rVert_2
        + \lambda_g \, \mathrm{mean}_{pairs} \lVert B_t - c \rVert_2, \qquad
        B_t \leftarrow (1 - r) B_t + r c, \quad r = e^{-\rho \, \mathrm{visits}(t)}

    Seeds are positions where the map of the label, scaled to [0, 1], is above a threshold; where an image has fewer
    than n of them they are taken in turn. They pass no gradient on, neither do centres, which are read before they
    move. A centre is noise until its class is visited, as released. The later of two pairs of a class in one batch wins
    in the released code; here the centre moves once, towards the mean of both. Where a map is constant, and so without
    a seed, both losses of the pair are 0.

    Buffers ``bank`` [K, C] and ``count`` [K], the visits, are those of all processes together, with the same bits in
    each.

    Args:
        backbone, num_classes, head, hidden_channels, dropout, cam_relu: as
            :class:`~wsolfast.methods._class_activation.ClassActivation`. Features are compared in front of the head.
        seeds: which positions above the threshold are taken: ``"random"`` ones, as the paper says, or the first ones in
            ``"raster"`` order, as released.
        seeds_per_image: n.
        seed_threshold: positions above this share of the map's range may be seeds.
        local_weight: :math:`\lambda_l`.
        global_weight: :math:`\lambda_g`.
        bank_decay: ρ; r is 0.82 after 100 visits and 0.14 after 1000 with the released 0.002, and centres stop
            moving in the end.
        bank_rate: smallest r, with which centres go on moving; 0 as released.

    Raises:
        ValueError: if there is no seed, the threshold or the smallest r lies outside [0, 1], or a weight or ρ is
            negative.
    """

    starts_with = ("backbone", "head")

    bank: Tensor
    count: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "conv3",
        hidden_channels: int = 1024,
        dropout: float = 0.0,
        cam_relu: bool = False,
        seeds: Literal["random", "raster"] = "random",
        seeds_per_image: int = 3,
        seed_threshold: float = 0.7,
        local_weight: float = 0.008,
        global_weight: float = 0.001,
        bank_decay: float = 0.002,
        bank_rate: float = 0.0,
    ):
        super().__init__(
            backbone, num_classes, head=head, hidden_channels=hidden_channels, dropout=dropout, cam_relu=cam_relu
        )
        if seeds_per_image < 1:
            raise ValueError(f"i2c: seeds_per_image: expected at least 1, got {seeds_per_image}")
        for name, share in (("seed_threshold", seed_threshold), ("bank_rate", bank_rate)):
            if not 0 <= share <= 1:
                raise ValueError(f"i2c: {name}: expected a value in [0, 1], got {share}")
        for name, value in (
            ("local_weight", local_weight),
            ("global_weight", global_weight),
            ("bank_decay", bank_decay),
        ):
            if value < 0:
                raise ValueError(f"i2c: {name}: expected at least 0, got {value}")
        self.seeds, self.seeds_per_image, self.seed_threshold = seeds, seeds_per_image, seed_threshold
        self.local_weight, self.global_weight = local_weight, global_weight
        self.bank_decay, self.bank_rate = bank_decay, bank_rate
        self.register_buffer("bank", torch.randn(num_classes, backbone.stages[-1].channels))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        """Return CAM's losses, those of the pairs, and the share of the pairs that had no seed.

        Raises:
            MethodError: if the images are not pairs of one class, side by side; the message names the first that are
                none.
        """
        check_pairs(batch)
        features = self.features(batch.image)[self.last_stage]
        hidden = self.head.hidden(features)
        logits = self.head.pooled_logits(hidden)
        loss_cls = functional.cross_entropy(logits, batch.label)
        with torch.no_grad():
            maps = ops.min_max_normalize(self.head.maps_of(hidden, batch.label[:, None])[:, 0])
            seeds, found = self.choose_seeds(maps, state)
        images = torch.arange(len(seeds), device=seeds.device)[:, None]
        pairs = features.flatten(2)[images, :, seeds].to(self.bank.dtype).unflatten(0, (-1, 2))
        of_pair, label = found.view(-1, 2).all(1), batch.label[::2]
        local = distance(pairs[:, 0], pairs[:, 1]).mean(1)
        centre = pairs.mean((1, 2))
        # A copy, which the update leaves alone.
        globally = distance(self.bank[label], centre)
        loss_local, loss_global = (torch.where(of_pair, one, 0).mean() for one in (local, globally))
        self.update_bank(label, centre.detach(), of_pair)
        return {
            "loss": loss_cls + self.local_weight * loss_local + self.global_weight * loss_global,
            "loss_cls": loss_cls,
            "loss_local": loss_local,
            "loss_global": loss_global,
            "accuracy": accuracy(logits, batch.label),
            "skipped": (~of_pair).float().mean(),
        }

    def choose_seeds(self, maps: Tensor, state: TrainState) -> tuple[Tensor, Tensor]:
        """Return positions [N, n] of the seeds of ``maps`` [N, h, w] in [0, 1], and the images [N] that have any."""
        values = maps.flatten(1)
        if self.seeds == "raster":
            order = torch.zeros_like(values)
        else:
            mine, total = place_in_batch(values)
            drawn = torch.rand(total, values.shape[1], generator=state.generator())[mine]
            order = drawn.to(maps.device, non_blocking=True)
        marked = values > self.seed_threshold
        first = torch.where(marked, order, torch.inf).argsort(dim=1, stable=True)
        numbers = torch.arange(self.seeds_per_image, device=maps.device)
        marks = marked.sum(1)
        return first.gather(1, numbers % marks.clamp(min=1)[:, None]), marks > 0

    def rate(self, count: Tensor) -> Tensor:
        """Return r, by which a centre moves after ``count`` visits."""
        return torch.exp(-self.bank_decay * count.to(self.bank.dtype)).clamp(min=self.bank_rate)

    @torch.no_grad()
    def update_bank(self, label: Tensor, centre: Tensor, found: Tensor) -> None:
        """Move the centres of the classes that the pairs of all processes show.

        Args:
            label (Tensor[M]): of the pairs of this process.
            centre (Tensor[M, C]): means of their features.
            found (Tensor[M]): bool, pairs that have seeds; others move nothing.
        """
        label = of_every_process(label)
        rows = of_every_process(torch.cat([centre, found[:, None].to(centre)], 1))
        centre, found = rows[:, :-1], rows[:, -1] > 0
        same_class = label[:, None] == label
        same = same_class & found
        visits = same.sum(1, keepdim=True)
        with torch.autocast(centre.device.type, enabled=False):
            means = same.to(centre) @ centre / visits.clamp(min=1)
        # That of the first pair of the class, so that whichever is written last, the same bits are written.
        means = means[same_class.int().argmax(1)]
        old, count = self.bank[label], self.count[label]
        rate = torch.where(visits > 0, self.rate(count)[:, None], 0)
        self.bank[label] = (1 - rate) * old + rate * means
        self.count[label] = count + (visits[:, 0] > 0)

    def batch_sampler(self, labels: Tensor, batch_size: int, seed: int) -> BalancedBatches:
        """Return batches of two images a class, or of several pairs where there are too few classes.

        Raises:
            ValueError: if the batch size is odd.
        """
        if batch_size % 2:
            raise ValueError(f"i2c: batch_size: expected an even number, for pairs, got {batch_size}")
        return BalancedBatches(labels, batch_size, seed, classes_per_batch=batch_size // 2, together=2)


def check_pairs(batch: Batch) -> None:
    """Check that images stand in pairs of one class.

    Raises:
        MethodError: if they do not; the message names the first that have no partner.
    """
    # On a GPU this waits, at the start of the step, where nothing of the step is launched yet.
    labels = batch.label.tolist()
    if len(labels) % 2:
        raise MethodError(
            f"i2c: {len(labels)} images in a part of a batch, {batch.image_id[-1]!r} has no partner: expected pairs; "
            "choose a batch_size that is a multiple of 2 x processes x stage.accumulate"
        )
    for at in range(0, len(labels), 2):
        first, second = labels[at : at + 2]
        if first != second:
            raise MethodError(
                f"i2c: {batch.image_id[at]!r} and {batch.image_id[at + 1]!r} are of classes {first} and {second}: "
                "expected pairs of one class side by side; take batches from the method's batch_sampler, a batch_size "
                "that is a multiple of 2 x processes x stage.accumulate"
            )


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the distance of ``a`` and ``b`` over their last dimension."""
    return torch.linalg.vector_norm(a - b + EPS, dim=-1)


NAME = "I2C"
STAGES = {"localizer": I2C}
