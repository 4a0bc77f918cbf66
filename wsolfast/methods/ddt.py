"""DDT: Wei et al., "Unsupervised Object Discovery and Co-Localization by Deep Descriptor Transforming", PR 2019.

The images of a class have one thing in common. Their descriptors, the vectors of a network's last features at all
positions, differ most along the direction from what they do not share to it: the first principal direction of the
class. Nothing is trained: the network is ImageNet's as it is, and another one tells the class of a test image. PSOL
(Zhang et al., CVPR 2020) starts from DDT's boxes; this follows its released code.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, MethodError, wanted_classes
from wsolfast.types import Batch, Features, Localization

# Of the two largest eigenvalues: above it the first direction is no better than the second one.
_ALIKE = 0.99
# The box of a component of cells, as it was released.
CELLS = ops.BoxRule(
    interpolation="none",
    normalization="none",
    quantize=False,
    relative=False,
    selection="pixel_area",
    box_end="exclusive",
    empty_box="image",
    iou_plus_one=False,
    hit=">",
)


class DDT(Method):
    r"""The first principal direction of the descriptors of each class, fitted in one pass over the training images.

    With x the descriptors of all images of class c at all positions,

    .. math:: \mu = E[x], \quad \Sigma = E[x x^\top] - \mu \mu^\top, \quad \Sigma v = \lambda_1 v, \quad
        D = v^\top (x - \mu)

    and the object is where D > 0. Sums are in float64, of one class at a time, and grow by one image after the other.

    Args:
        backbone: its last stage gives the descriptors; it is never trained.
        num_classes: K.
        sign: which of v and -v is the object's. ``"norm"``: D grows with the length of the descriptors, because
            objects activate a network. ``"largest_loading"``: the largest component of v is positive, which is
            scikit-learn's rule since 1.5. ``"largest_projection"``: the largest \|D\| of the class is positive, which
            is its rule before; it takes a second look at every image.
    """

    classifies = False
    fits = True

    mean: Tensor
    direction: Tensor
    eigenvalues: Tensor
    images: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        sign: Literal["norm", "largest_loading", "largest_projection"] = "norm",
    ):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.sign = sign
        channels = backbone.stages[-1].channels
        for name, width in (("mean", channels), ("direction", channels), ("eigenvalues", 2)):
            self.register_buffer(name, torch.zeros(num_classes, width, dtype=torch.float64))
        self.register_buffer("images", torch.zeros(num_classes, dtype=torch.int64))
        # Known without asking the device, which would have to be waited for.
        self._not_fitted = set(range(num_classes))
        self.register_load_state_dict_post_hook(DDT._after_loading)

    @property
    def looks(self) -> int:
        return 2 if self.sign == "largest_projection" else 1

    def fit_batch(self, batch: Batch, sums: dict[str, Tensor], look: int) -> dict[str, Tensor]:
        finite = []
        # Each image goes through the network alone: convolutions of another batch size may sum in another order.
        for number in range(len(batch.image_id)):
            descriptors = self.features(batch.image[number : number + 1])[self.last_stage][0].flatten(1).double()
            finite.append(descriptors.isfinite().all())
            sums = _with_extreme(sums, descriptors) if look else _with_image(sums, descriptors)
        # Of all images at once: a GPU is waited for once a batch.
        for image_id, is_finite in zip(batch.image_id, torch.stack(finite).tolist() if finite else [], strict=True):
            if not is_finite:
                raise MethodError(f"ddt: {image_id}: its features are not finite; look at the image and the weights")
        return sums

    def fit_class(self, sums: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        sums = {name: value.cpu() for name, value in sums.items()}
        mean, direction, eigenvalues = principal_direction(sums)
        found = {"mean": mean, "direction": direction, "eigenvalues": eigenvalues, "images": sums["images"]}
        first, second = eigenvalues.tolist()
        if first == 0:
            return found, ["the descriptors do not vary, so there is no direction and the box is the whole image"]
        remarks = []
        if second > _ALIKE * first:
            remarks.append(
                f"the two largest eigenvalues differ by less than {1 - _ALIKE:.0%}, the direction is one of many"
            )
        signs = _signs(sums, mean, direction)
        found["direction"] = direction * signs[self.sign]
        others = [rule for rule, sign in signs.items() if sign != signs[self.sign]]
        if others:
            remarks.append(f"sign {self.sign!r} is taken, {' and '.join(map(repr, others))} would turn v round")
        return found, remarks

    def keep_class(self, label: int, found: dict[str, Tensor]) -> None:
        for name, value in found.items():
            self.get_buffer(name)[label] = value
        self._not_fitted.discard(label)

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise with the positive projections as shares of the largest one, [N, M, h, w] in [0, 1].

        A position is above 0 if and only if D > 0 there, so a cut at 0 is DDT's foreground, and a sweep has something
        to sweep. The classes are the label, then the ``topk`` of ``ranking``: this method cannot rank classes itself.

        Raises:
            MethodError: if there is neither a label nor a ranking, or a class had no training image.
        """
        if ranking is not None:
            classes = wanted_classes(ranking, label, topk)
        elif label is not None:
            classes = label[:, None]
        else:
            raise MethodError("ddt: cannot tell classes; give it a label, or a ranking by a network that can")
        return Localization(None, classes, _shares(self.project(features, classes)))

    def project(self, features: Features, classes: Tensor) -> Tensor:
        """Return D, float64 [N, M, h, w], of ``classes`` [N, M] at every position of the last stage.

        Raises:
            MethodError: if a class had no training image; the message names it.
        """
        if self._not_fitted:
            self._check(classes)
        descriptors = features[self.last_stage].double()
        direction = self.direction[classes]
        offset = (direction * self.mean[classes]).sum(-1)
        return (direction @ descriptors.flatten(2)).unflatten(2, descriptors.shape[2:]) - offset[..., None, None]

    def export(self, batch: Batch) -> dict[str, Tensor]:
        """Return the label's foreground D > 0 and the box of its largest component.

        Returns:
            ``pseudo_mask``, uint8 [N, h, w]; ``pseudo_box``, float64 [N, 4] xyxy in shares of the image, those of the
            protocol ``psol``: the whole image where there is no foreground.
        """
        shares = _shares(self.project(self.features(batch.image), batch.label[:, None]))[:, 0]
        height, width = shares.shape[1:]
        cut = torch.zeros(1, dtype=torch.float64, device=shares.device)
        cells = ops.score_map_boxes(shares, cut, CELLS).boxes[:, 0].double()
        return {"pseudo_mask": (shares > 0).byte(), "pseudo_box": cells / cells.new_tensor([width, height] * 2)}

    def _after_loading(self, _: object) -> None:
        self._not_fitted = set((self.images == 0).nonzero().flatten().tolist())

    def _check(self, classes: Tensor) -> None:
        for label in classes.flatten().tolist():
            if label in self._not_fitted:
                name = f" ({self.class_names[label]!r})" if label < len(self.class_names) else ""
                raise MethodError(f"ddt: class {label}{name} has no direction: there was no training image of it")


def principal_direction(sums: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [C], first principal direction [C] of length 1 and its two largest eigenvalues, float64 on the CPU.

    Where descriptors do not vary, direction and eigenvalues are 0.

    Args:
        sums: of a class, as :meth:`DDT.fit_batch` adds them up.
    """
    rows, total, products = (sums[name].cpu() for name in ("rows", "x", "xx"))
    mean, moment = total / rows, products / rows
    covariance = moment - torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    # Rounding of so many additions leaves this much of descriptors that are all the same.
    rounding = rows * torch.finfo(torch.float64).eps * moment.trace()
    if values[-1] <= rounding:
        return mean, torch.zeros_like(mean), values.new_zeros(2)
    largest = values.flip(0)[:2].clamp(min=0)
    return mean, vectors[:, -1], torch.nn.functional.pad(largest, (0, 2 - len(largest)))


def _with_image(sums: dict[str, Tensor], descriptors: Tensor) -> dict[str, Tensor]:
    """Add one image's descriptors [C, P] to the sums that covariance and ``sign = "norm"`` follow from."""
    norms = torch.linalg.vector_norm(descriptors, dim=0)
    one = {
        "images": torch.tensor(1),
        "rows": torch.tensor(descriptors.shape[1]),
        "x": descriptors.sum(1),
        "xx": descriptors @ descriptors.T,
        "norm": norms.sum(),
        "norm_x": descriptors @ norms,
    }
    return {name: sums[name].add_(value) for name, value in one.items()} if sums else one


def _with_extreme(sums: dict[str, Tensor], descriptors: Tensor) -> dict[str, Tensor]:
    """Note the projection of the largest size, up to the sign of the direction; the first one among equals."""
    if "extreme" not in sums:
        mean, direction, _ = principal_direction(sums)
        sums |= {"mean": mean.to(descriptors), "direction": direction.to(descriptors)}
        sums["extreme"] = descriptors.new_zeros(())
    projections = sums["direction"] @ descriptors - sums["direction"] @ sums["mean"]
    found = projections[projections.abs().argmax()]
    sums["extreme"] = torch.where(found.abs() > sums["extreme"].abs(), found, sums["extreme"])
    return sums


def _signs(sums: dict[str, Tensor], mean: Tensor, direction: Tensor) -> dict[str, int]:
    """Return what each rule multiplies the direction with, 1 or -1; ``largest_projection`` after a second look only."""
    loading = _sign(direction[direction.abs().argmax()])
    # The covariance of D with the length of the descriptors; of equal lengths there is none.
    grows = direction @ (sums["norm_x"] - mean * sums["norm"])
    signs = {"norm": _sign(grows) or loading, "largest_loading": loading}
    if "extreme" in sums:
        signs["largest_projection"] = _sign(sums["extreme"]) or loading
    return signs


def _sign(value: Tensor) -> int:
    return int(torch.sign(value))


def _shares(projections: Tensor) -> Tensor:
    """Return positive projections [N, M, h, w] as shares of the largest one, float32: above 0 where they are."""
    positive = projections.clamp(min=0)
    smallest = torch.finfo(torch.float32).tiny
    peak = positive.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(positive > 0, (positive / peak).float().clamp(min=smallest), positive.float())


NAME = "DDT"
STAGES = {"localizer": DDT}
