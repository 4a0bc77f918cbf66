"""The published localisation protocols as data: their switches, thresholds and frames.

What holds for all of them: a predicted class counts only if it is the label, so Top-k Loc is "the label is among the
k best classes and the box of the label's map is right". One map per image, the label's (or the method's only one),
gives Top-1, Top-5 and GT-known Loc. Published numbers are at the best threshold on the evaluated split unless a
protocol's text says otherwise.
"""

from dataclasses import dataclass, replace
from typing import Literal

from wsolfast.ops import BoxRule
from wsolfast.ops._checks import check_type

GT_BOX_ENDS = ("exclusive", "clipped", "inclusive", "shifted")
GT_CORNERS = ("exact", "truncate")


@dataclass(frozen=True)
class Protocol:
    """One way to score localisation.

    Attributes:
        name: key of :func:`get_protocol`.
        source: where it comes from, and what differs from the original.
        rule: map to boxes, boxes to hits.
        thresholds: the map cut-offs that are tried.
        iou_thresholds: overlaps a box must have; 0.5 is among them and is the one of Top-1, Top-5 and GT-known Loc.
        frame: where boxes are cut and compared. "input": maps and true boxes are brought to the square network input,
            true boxes as truncated integers. "image": maps are resized to the original image. "scaled": boxes are cut
            at ``input_size`` (or at the map's own size) and then scaled to the original image. "crop": maps show the
            central crop of a resized image, true boxes are moved there and clipped; what is clipped away entirely
            counts as a miss.
        input_size: side of the square that maps are resized to; None in frame "image" and for maps left as they are.
        resize: frame "crop" only: side that the whole image is warped to before the central ``input_size`` is cut.
        box_scaling: frame "scaled" only. "truncate": to integers inside the image, in float32, as CI-CAM does. "round":
            to the nearest integers, halves to the even one, in float64, as NL-CCAM does. "exact": as they come.
        gt_box_end: where true boxes end, which are given half-open, before they go to the frame; the words are those of
            :class:`~wsolfast.ops.BoxRule`'s ``box_end``. "exclusive": x1, y1 stand as they are given (x + w of CUB,
            xmax of ILSVRC). "clipped": the same but at most W - 1, H - 1. "inclusive": one less. "shifted": all four
            corners are one less, as if the first pixel were 1.
        class_means: the published accuracies are means over the classes of those of each class.
        gt_corners: frame "crop" only, where frame "input" always truncates. "exact": true boxes as they come to the
            crop, within its ``input_size``. "truncate": as integers, the last pixel at most.

    Example:
        >>> from dataclasses import replace
        >>> protocol = replace(get_protocol("cicam"), name="cicam_inception", input_size=299)
        >>> protocol.frame, protocol.box_scaling, protocol.input_size
        ('scaled', 'truncate', 299)
    """

    name: str
    source: str
    rule: BoxRule
    thresholds: tuple[float, ...]
    iou_thresholds: tuple[float, ...] = (0.5,)
    frame: Literal["input", "image", "scaled", "crop"] = "input"
    input_size: int | None = 224
    resize: int | None = None
    box_scaling: Literal["truncate", "round", "exact"] = "exact"
    gt_box_end: Literal["exclusive", "clipped", "inclusive", "shifted"] = "exclusive"
    class_means: bool = False
    gt_corners: Literal["exact", "truncate"] = "exact"

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ValueError(f"protocol {self.name}: needs at least one threshold")
        if 0.5 not in self.iou_thresholds:
            raise ValueError(f"protocol {self.name}: iou_thresholds must hold 0.5, got {self.iou_thresholds}")
        if (self.frame in ("input", "crop")) != (self.input_size is not None) and self.frame != "scaled":
            raise ValueError(
                f"protocol {self.name}: frame {self.frame!r} does not go with input_size={self.input_size}"
            )
        if (self.frame == "crop") != (self.resize is not None):
            raise ValueError(f"protocol {self.name}: resize belongs to frame 'crop', got {self.frame!r}")
        if self.gt_box_end not in GT_BOX_ENDS:
            raise ValueError(
                f"protocol {self.name}: gt_box_end must be one of {', '.join(map(repr, GT_BOX_ENDS))}, "
                f"got {self.gt_box_end!r}"
            )
        if self.gt_corners not in GT_CORNERS or (self.gt_corners == "truncate" and self.frame != "crop"):
            raise ValueError(
                f"protocol {self.name}: gt_corners must be 'exact' or, in frame 'crop', 'truncate', "
                f"got {self.gt_corners!r} in frame {self.frame!r}"
            )


def get_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        ValueError: if there is none; the names are listed.

    Example:
        >>> get_protocol("danet").thresholds
        (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def as_protocol(protocol: object) -> Protocol:
    """Return a record as it is, that of a name otherwise.

    Raises:
        TypeError: if it is neither.
        ValueError: if there is none of that name.

    Example:
        >>> as_protocol("spa") == as_protocol(get_protocol("spa"))
        True
    """
    if isinstance(protocol, str):
        return get_protocol(protocol)
    check_type("metrics", "protocol", protocol, Protocol)
    assert isinstance(protocol, Protocol)
    return protocol


def _steps(first: int, last: int, per_unit: int) -> tuple[float, ...]:
    return tuple(k / per_unit for k in range(first, last + 1))


# float64(k * 0.001), as numpy.arange(0, 1, 0.001) has them: k / 1000 differs in the last bit.
_THOUSANDTHS = tuple(k * 0.001 for k in range(1000))

_DANET = BoxRule(
    interpolation="linear",
    normalize_first=True,
    quantize=False,
    relative=False,
    comparison=">=",
    selection="union",
    box_end="inclusive",
    hit=">",
)
_CI_CAM = BoxRule(
    interpolation="linear",
    normalization="min",
    normalize_first=True,
    quantize=False,
    mean_cut=True,
    connectivity=4,
    selection="box_area",
    box_end="exclusive",
)
_CSOA = BoxRule(
    interpolation="linear",
    normalization="max",
    quantize=False,
    selection="pixel_area",
    box_end="exclusive",
    empty_box="image",
    iou_plus_one=False,
    hit=">",
)
_RETHINKING_CAM = BoxRule(percentile=90.0, box_end="exclusive", empty_box="image")
_BAS = BoxRule(
    interpolation="linear",
    normalize_first=True,
    quantize=False,
    relative=False,
    selection="pixel_area",
    box_end="exclusive",
    empty_box="image",
    iou_plus_one=False,
    hit=">",
)
_SPOL = BoxRule(
    interpolation="linear_corners",
    normalization="none",
    quantize=False,
    relative=False,
    box_end="exclusive",
    iou_plus_one=False,
    hit=">",
)
_TS_CAM = BoxRule(interpolation="linear", box_end="exclusive", empty_box=(0, 0, 1, 1))

_ALL = (
    Protocol(
        name="wsolevaluation",
        source="Choe et al., CVPR 2020 (MaxBoxAcc) and TPAMI 2022 (MaxBoxAccV2), the released evaluator. Boxes end "
        "one pixel late unless they touch the border, yet are compared as inclusive; so are the true ones, x + w "
        "of CUB and xmax of ILSVRC, limited to the last pixel.",
        rule=BoxRule(),
        thresholds=_THOUSANDTHS,
        iou_thresholds=(0.3, 0.5, 0.7),
        gt_box_end="clipped",
    ),
    Protocol(
        name="cam",
        source="Zhou et al., CVPR 2016: 20 % of the maximum, the largest component, on the original image. The "
        "released code instead writes 8-bit JPEG heat maps, merges contours of distance transforms at three fixed "
        "levels (20, 100, 110 of 255) and resizes with MATLAB's bicubic; that path is not expressible, this is the "
        "paper's wording in wsolevaluation's contours. True boxes are compared as ImageNet's own evaluation does: "
        "corners as they are listed, one pixel added to each width.",
        rule=BoxRule(normalization="max", box_end="exclusive"),
        thresholds=(0.2,),
        frame="image",
        input_size=None,
    ),
    Protocol(
        name="acol",
        source="Zhang et al., CVPR 2018: 8-bit heat maps, min-max per map, boxes by the code of CAM with thresholds "
        "that were tuned and not recorded. Here: the largest contour on the original image, thresholds 0.05 to "
        "0.95; true boxes as in cam.",
        rule=BoxRule(interpolation="linear", box_end="exclusive"),
        thresholds=_steps(1, 19, 20),
        frame="image",
        input_size=None,
    ),
    Protocol(
        name="danet",
        source="Xue et al., ICCV 2019, released code: min-max at the map's size, bilinear to the original image, "
        "absolute threshold, one box around all foreground, overlap strictly above 0.5. True boxes end at "
        "x + w - 1. Both released scripts warp the whole image to 224 x 224 for the network; nothing is cropped.",
        rule=_DANET,
        thresholds=_steps(1, 6, 20),
        frame="image",
        input_size=None,
        gt_box_end="inclusive",
    ),
    Protocol(
        name="spa",
        source="Pan et al., CVPR 2021, released code: as DANet, min-max with 1e-10 added; the threshold behind the "
        "published tables is unknown, 0.10 to 0.45 is what the script sweeps. True boxes end at x + w - 1 on CUB; on "
        "ILSVRC the original takes xmax itself, one pixel more than here (gt_box_end = exclusive).",
        rule=replace(_DANET, normalization="minmax_eps", eps=1e-10),
        thresholds=_steps(2, 9, 20),
        frame="image",
        input_size=None,
        gt_box_end="inclusive",
    ),
    Protocol(
        name="cicam",
        source="CI-CAM (ACM MM 2021), released code: the cut at theta times the maximum (0 on CUB) is followed by "
        "an unpublished second one at the mean of the cut map; the 4-connected component with the largest bounding "
        "rectangle; scaled to the image in float32 and truncated, by which a full-width box can lose its last "
        "column. Predicted and true boxes (x + w, as they are listed) are both taken one pixel wider and higher. VGG16 "
        "cuts at 224; for InceptionV3 replace input_size by 299.",
        rule=_CI_CAM,
        thresholds=(0.0, *_steps(1, 20, 50)),
        frame="scaled",
        box_scaling="truncate",
    ),
    Protocol(
        name="nlccam",
        source="NL-CCAM (WACV 2020), released code: as CI-CAM, with theta 0.12; coordinates are multiplied in "
        "float64 and rounded, halves to the even integer, and not clipped.",
        rule=_CI_CAM,
        thresholds=(0.12,),
        frame="scaled",
        box_scaling="round",
    ),
    Protocol(
        name="kg_center_crop",
        source="The later CI-CAM release (KG): boxes of the central crop of a warped image, true boxes clipped to "
        "the crop. Far more lenient, not comparable with any other protocol. The image is warped to 344 on CUB; "
        "replace resize by 288 on ILSVRC.",
        rule=_CI_CAM,
        thresholds=(0.11, 0.14, 0.21),
        frame="crop",
        resize=344,
    ),
    Protocol(
        name="rethinking_cam",
        source="Bae et al., ECCV 2020 (Rethinking CAM), released code, with PaS: the 8-bit map of the central 224 of "
        "a 256 x 256 image is cut at 0.35 times its 90th percentile, the setting for CUB; the paper tries the "
        "percentiles 80, 85, 90 and 95. Its baseline cuts at 0.2 times the maximum: replace the rule's "
        "percentile by 100 and the thresholds by 0.2. The largest contour, the whole crop where there is "
        "none. True boxes end at x + w - 1 on CUB; on ILSVRC, for which no setting was released, at xmax "
        "(gt_box_end = exclusive). They go to the crop as truncated integers and end at its last pixel; one "
        "outside the crop is a miss. The original computes maps in float32, and multiplies two negative "
        "extents to a positive overlap; neither is reproduced.",
        rule=_RETHINKING_CAM,
        thresholds=(0.35,),
        frame="crop",
        resize=256,
        gt_box_end="inclusive",
        gt_corners="truncate",
    ),
    Protocol(
        name="eil",
        source="Mai et al., CVPR 2020 (EIL), released script: the 8-bit map of the central 224 of a 256 x 256 image is "
        "cut at 0.15 times its maximum, one inclusive box around all foreground; the script tries thresholds from 0.08 "
        "to 0.6, and its other mode takes the largest contour (replace selection by contour_area). The original scales "
        "true boxes by 255 instead of 256, moves them by 15 instead of 16 and leaves what is outside the crop in the "
        "overlap: up to a pixel, and for large objects more. Here they go to the crop as in every protocol, exactly "
        "and clipped.",
        rule=BoxRule(selection="union", box_end="inclusive"),
        thresholds=(0.15,),
        frame="crop",
        resize=256,
    ),
    Protocol(
        name="spol",
        source="Wei et al., CVPR 2021 (SPOL), released code: a probability map of the central 224 of a 256 x 256 "
        "image, absolute threshold (0.2 on CUB, 0.8 on ImageNet), largest contour, half-open boxes. The original "
        "upsamples logits and applies the sigmoid after that: hand over the map at 224 to have it so.",
        rule=_SPOL,
        thresholds=_steps(1, 19, 20),
        frame="crop",
        resize=256,
        gt_box_end="clipped",
    ),
    Protocol(
        name="csoa",
        source="CSoA (WACV 2021): no code was released. Each branch's map is cut at theta times its own maximum and "
        "the masks are united, which is one cut of the pixelwise maximum of the two maps, each divided by its "
        "maximum: hand over that. The 8-connected component with most pixels; the whole image where there is none. "
        "theta = 0.3.",
        rule=_CSOA,
        thresholds=(0.2, 0.3, 0.4),
        frame="image",
        input_size=None,
    ),
    Protocol(
        name="csoa_intersection",
        source="CSoA where both branches must see the object, as its Figure 4 reads: the intersection of the cuts is "
        "one cut of the pixelwise minimum of the two maps, each divided by its maximum. That minimum need not reach 1 "
        "anywhere, so the cut is at theta itself. Everything else as csoa.",
        rule=replace(_CSOA, normalization="none", relative=False),
        thresholds=(0.2, 0.3, 0.4),
        frame="image",
        input_size=None,
    ),
    Protocol(
        name="bas",
        source="Wu et al., CVPR 2022 (BAS), released code: min-max at the map's size, bilinear to the central 224 of a "
        "256 x 256 image, absolute threshold (on CUB 0.15, InceptionV3 0.1; on ILSVRC 0.5, ResNet50 0.45, InceptionV3 "
        "0.3), the 8-connected component with most pixels, the whole crop where there is none. A map with one "
        "value everywhere is 0 / 0 in the original and empty here. The published accuracies are means over the "
        "classes of those of each class: the numbers that end in _class_mean.",
        rule=_BAS,
        thresholds=_steps(1, 19, 20),
        frame="crop",
        resize=256,
        class_means=True,
    ),
    Protocol(
        name="psol",
        source="Zhang et al., CVPR 2020 (PSOL), the pseudo boxes of DDT: the largest 8-connected component of "
        "positive projections at the map's own size, scaled to the image; the whole image where there is none. The "
        "published numbers of PSOL are those of a regressor trained on them: psol_regressor.",
        rule=BoxRule(
            interpolation="none",
            normalization="none",
            quantize=False,
            relative=False,
            selection="pixel_area",
            box_end="exclusive",
            empty_box="image",
            iou_plus_one=False,
            hit=">",
        ),
        thresholds=(0.0,),
        frame="scaled",
        input_size=None,
    ),
    Protocol(
        name="psol_regressor",
        source="Zhang et al., CVPR 2020 (PSOL), released code, the boxes of its regressor: those that a network gives "
        "of the central 224 of a 256 x 256 image, as they come, not rounded and not clipped. All four corners of true "
        "boxes are one less, as in PASCAL VOC; they go to the crop and are clipped there. One outside the crop is a "
        "miss. A score map, which PSOL has none of, is cut as by spol. The original averages ILSVRC's accuracies over "
        "classes, which have equally many images.",
        rule=_SPOL,
        thresholds=_steps(1, 19, 20),
        frame="crop",
        resize=256,
        gt_box_end="shifted",
    ),
    Protocol(
        name="gc_net",
        source="Lu et al., ECCV 2020 (GC-Net), released code, VGG16: the box around the shape, in the central 224 of a "
        "256 x 256 image, overlap strictly above 0.5. The method gives boxes and nothing is cut; of a map it is the "
        "box of the largest contour above 1/2, where the method's masks have their edge. The original truncates the "
        "corners of turned rectangles and takes ellipses from a raster.",
        rule=_SPOL,
        thresholds=(0.5,),
        frame="crop",
        resize=256,
    ),
    Protocol(
        name="gc_net_whole",
        source="GC-Net with GoogLeNet and InceptionV3: as gc_net, of the whole image, warped to 299 x 299; overlaps "
        "are the same there and on the original image.",
        rule=_SPOL,
        thresholds=(0.5,),
        frame="scaled",
        input_size=299,
    ),
    Protocol(
        name="adl",
        source="Choe and Shim, CVPR 2019 (ADL), TensorFlow code: contours of an 8-bit map at int(t max), boxes not "
        "clipped, compared with the first true box only; t = 0.2, or the best of a sweep. The original takes the "
        "luminance of a cubehelix colouring of the map; here it is the map itself.",
        rule=replace(_TS_CAM, gt="first"),
        thresholds=_steps(1, 19, 20),
        gt_box_end="clipped",
    ),
    Protocol(
        name="ts_cam",
        source="Gao et al., ICCV 2021 (TS-CAM), the evaluation of its DeiT models: as ADL, with any true box, "
        "thresholds 0.10 to 0.20. The original counts an overlap of exactly 0.5 for GT-known Loc only; here it "
        "counts for all. Its older script multiplies two negative extents to a positive overlap; that is not "
        "reproduced.",
        rule=_TS_CAM,
        thresholds=_steps(10, 20, 100),
        gt_box_end="clipped",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}
