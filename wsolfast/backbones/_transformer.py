"""Vision transformers from timm as backbones: patch tokens on their grid, and the class token's attention."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from wsolfast.backbones._base import (
    CLASS_ATTENTION,
    CLASS_TOKEN,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Architecture,
    Backbone,
    BackboneError,
    StageInfo,
)
from wsolfast.backbones._timm_network import TimmNetwork, origin_of

# How many stages are read: the last block and those at a quarter, a half and three quarters of the depth.
_STAGES = 4


class TransformerBackbone(TimmNetwork):
    """Backbone around a timm transformer whose blocks all work on the same grid of patches.

    A stage is named ``block<i>`` after timm's ``blocks.<i>`` and holds the patch tokens as they leave that block. The
    last one holds them after the final norm, as the head reads them. Class, distillation and register tokens are no
    part of a stage. ``forward`` also gives the class token after the final norm as ``"class_token"`` [N, D], if there
    is one, and its attention where :meth:`require_class_attention` asked for it.

    Args:
        net: built by timm with ``num_classes=0``, of the family of ``VisionTransformer``, ``Eva`` or ``Beit``.
        head: name of the linear classifier in timm's checkpoints; None where the network ends otherwise.

    Attributes:
        prefix_tokens: how many tokens stand before the patches.
        has_class_token: the first of them is a class token.
    """

    # nn.Module would type its attributes as modules.
    net: Any

    def __init__(self, net: nn.Module, *, head: str | None = None):
        super(Backbone, self).__init__()
        self.net = net
        config: Any = getattr(net, "pretrained_cfg", {})
        mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
        depth = len(self.net.blocks)
        self._blocks = sorted({depth * part // _STAGES for part in range(1, _STAGES + 1)} - {0})
        stride = int(self.net.patch_embed.feat_ratio())
        stages = tuple(StageInfo(f"block{count - 1}", self.net.embed_dim, stride) for count in self._blocks)
        architecture = Architecture(net, {}, mean=mean, std=std, head=head, origin=origin_of(config))
        self._describe(architecture, stages, False)
        self.prefix_tokens = int(self.net.num_prefix_tokens)
        self.has_class_token = getattr(self.net, "cls_token", None) is not None
        self.head_reads_class_token = self.has_class_token and self.net.global_pool == "token"
        self._attention_when: Literal["evaluation", "always"] | None = None
        self._after_last: tuple[str, ...] = ()
        self._grid = (0, 0)
        self.register_load_state_dict_pre_hook(TransformerBackbone._before_loading)

    def extract(self, normalized: Tensor) -> dict[str, Tensor]:
        if normalized.shape[0] == 0:
            # timm reshapes with a side to be told from the number of elements.
            one = torch.cat([normalized, normalized.new_zeros(1, *normalized.shape[1:])])
            return {name: found[:0] for name, found in self.extract(one).items()}
        self._grid = self.grid_of(normalized.shape[-2:])
        return self._read_with_attention(normalized) if self.gives_class_attention else self._read(normalized)

    def grid_of(self, size: Iterable[int]) -> tuple[int, int]:
        """Return (h, w), the patches down and across an image of ``size`` (H, W).

        Raises:
            ValueError: if the patches do not fill the image, or the network takes no image of this size.
        """
        height, width = size
        down, across = self.net.patch_embed.feat_ratio(as_scalar=False)
        if height % down or width % across or not height or not width:
            raise ValueError(
                f"backbone: expected images whose sides are multiples of the patch, {down}x{across} pixels, "
                f"got {height}x{width}; set data.resize and data.crop to such sides"
            )
        built = tuple(self.net.patch_embed.img_size or ())
        if not getattr(self.net, "dynamic_img_size", False) and built != (height, width):
            raise ValueError(f"backbone: this transformer takes images of {built} only, got {height}x{width}")
        return height // down, width // across

    @property
    def gives_class_attention(self) -> bool:
        return self._attention_when == "always" or (self._attention_when == "evaluation" and not self.training)

    def require_class_attention(self, when: Literal["evaluation", "always"]) -> None:
        """Let ``forward`` also give the class token's attention, ``"class_attention"`` [N, L, H, h, w].

        It is a softmax over all tokens, of each of L layers and H heads, less the columns of the prefix tokens. Fused
        attention runs as before: of every layer one row per head is computed again from its queries and keys.

        Args:
            when: in ``"evaluation"`` or ``"always"``; in training it is part of the graph.

        Raises:
            BackboneError: if there is no class token, or blocks attend in another way than by one softmax.
        """
        if not self.has_class_token:
            super().require_class_attention(when)
        for index, block in enumerate(self.net.blocks):
            attending = _attending(block)
            if not _is_one_softmax(attending):
                kinds = ", ".join(type(module).__name__ for module in attending) or "no attention that is known"
                raise BackboneError(
                    f"backbone: blocks.{index} has {kinds}; class attention wants one softmax per block"
                )
            attending[0].fused_attn = True
        self._attention_when = when

    def extract_from(self, stage: str, features: Tensor, *, constant: bool = False) -> dict[str, Tensor]:
        """Return no stage, for the last one.

        Raises:
            BackboneError: if there is no such stage, or others follow, which read more tokens than those of a stage.
        """
        if self._index(stage, "to start from") < len(self.stages) - 1:
            raise BackboneError(
                f"backbone: a transformer does not run from {stage!r} on, its later blocks also read the class token; "
                "use features_with_graph for gradients, or start from the image"
            )
        return {}

    def features_with_graph(self, image: Tensor, stage: str) -> dict[str, Tensor]:
        index = self._index(stage, "to start from")
        leaves: list[Tensor] = []

        def start(_module: nn.Module, _inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:
            leaves.append(self._as_map(tokens).detach().requires_grad_())
            torch.set_grad_enabled(True)
            return self._with_patches(tokens, leaves[-1])

        normalized = self.normalize(image)
        if index == len(self.stages) - 1:
            with torch.no_grad():
                found = self.extract(normalized)
            found[stage].requires_grad_()
            return found
        hook = self.net.blocks[self._blocks[index] - 1].register_forward_hook(start)
        try:
            with torch.no_grad():
                found = self.extract(normalized)
        finally:
            hook.remove()
        return found | {stage: leaves[-1]}

    def insert(self, stage: str, name: str, module: nn.Module) -> None:
        """Insert ``module`` after ``stage``, on patch tokens alone; where it adds images, prefix tokens are repeated.

        Args:
            stage, name, module: as for :meth:`Backbone.insert`.

        Raises:
            BackboneError: if there is no such stage, or the name is taken.
        """
        index = self._index(stage, f"to insert {name!r} after")
        if hasattr(self, name):
            raise BackboneError(f"backbone: there is a {name!r} already; choose another name for what is inserted")
        self.add_module(name, module)
        self._inserted += (name,)
        if index == len(self.stages) - 1:
            self._after_last += (name,)
        else:
            run = functools.partial(self._run_inserted, name)
            self.net.blocks[self._blocks[index] - 1].register_forward_hook(run)

    def freeze(self, stage: str) -> None:
        """Freeze embeddings and blocks up to and including ``stage``; after the last one, the final norm too.

        Raises:
            BackboneError: if there is no such stage.
        """
        index = self._index(stage, "to freeze")
        open_blocks = range(self._blocks[index], len(self.net.blocks))
        opened = tuple(f"blocks.{block}." for block in open_blocks)
        if opened:
            opened += ("norm.", "fc_norm.")
        for name, parameter in self.net.named_parameters():
            if not name.startswith(opened):
                parameter.requires_grad_(False)

    def fold_batch_norms(self) -> None:
        """Do nothing: transformers have none."""

    def adapt(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint with position embeddings resized to this network's grid."""
        return {name: self._resized(value) if name.endswith("pos_embed") else value for name, value in found.items()}

    def _index(self, stage: str, purpose: str) -> int:
        names = [info.name for info in self.stages]
        if stage not in names:
            raise BackboneError(f"backbone: no stage {stage!r} {purpose}; there are {', '.join(names)}")
        return names.index(stage)

    def _read(self, normalized: Tensor) -> dict[str, Tensor]:
        indices = [count - 1 for count in self._blocks]
        last, patches = self.net.forward_intermediates(normalized, indices=indices, output_fmt="NLC")
        if isinstance(self.net.norm, nn.Identity):
            # Networks that pool before the norm: of single tokens it is what the head reads.
            last = getattr(self.net, "fc_norm", nn.Identity())(last)
        names = [stage.name for stage in self.stages]
        found = {name: self._unflatten(one) for name, one in zip(names[:-1], patches[:-1], strict=True)}
        deepest = self._as_map(last)
        for name in self._after_last:
            deepest = self.get_submodule(name)(deepest)
        found[names[-1]] = deepest
        return found | ({CLASS_TOKEN: last[:, 0]} if self.has_class_token else {})

    def _read_with_attention(self, normalized: Tensor) -> dict[str, Tensor]:
        watched = _ClassRows()
        with watched:
            found = self._read(normalized)
        rows = torch.stack(watched.rows, 1)[..., self.prefix_tokens :]  # [N, L, H, P]
        return found | {CLASS_ATTENTION: rows.unflatten(3, self._grid)}

    def _run_inserted(self, name: str, _block: nn.Module, _inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:
        return self._with_patches(tokens, self.get_submodule(name)(self._as_map(tokens)))

    def _as_map(self, tokens: Tensor) -> Tensor:
        return self._unflatten(tokens[:, self.prefix_tokens :])

    def _unflatten(self, patches: Tensor) -> Tensor:
        return patches.mT.unflatten(2, self._grid)

    def _with_patches(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """Return tokens whose patches are those of ``maps`` [M, D, h, w]; images beyond the N-th begin anew."""
        prefix = tokens[:, : self.prefix_tokens]
        more = maps.shape[0] - prefix.shape[0]
        if more > 0:
            prefix = torch.cat([prefix, prefix[:more]])
        return torch.cat([prefix, maps.flatten(2).mT], dim=1)

    def _before_loading(self, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Resize position embeddings that were trained for another size of images, whoever loads them."""
        name = f"{prefix}net.pos_embed"
        if name in state:
            state[name] = self._resized(state[name])

    def _resized(self, positions: Tensor) -> Tensor:
        own = getattr(self.net, "pos_embed", None)
        if own is None or positions.dim() != 3 or positions.shape == own.shape or positions.shape[2] != own.shape[2]:
            return positions
        from timm.layers import resample_abs_pos_embed

        grid = self.net.patch_embed.grid_size
        return resample_abs_pos_embed(positions, grid, num_prefix_tokens=own.shape[1] - grid[0] * grid[1])


def attends_once(net: Any) -> bool:
    """Return True if every block of a transformer attends by one softmax, of which there are rows."""
    return all(_is_one_softmax(_attending(block)) for block in net.blocks)


def _attending(block: nn.Module) -> list[Any]:
    return [module for module in block.modules() if hasattr(module, "fused_attn")]


def _is_one_softmax(attending: Sequence[Any]) -> bool:
    return len(attending) == 1 and not hasattr(attending[0], "lambda_init")


class _ClassRows(TorchFunctionMode):
    """Mode that computes, of every fused attention, the first token's softmax row, float32 [N, H, tokens] each."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.rows.append(_first_row(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _first_row(
    query: Tensor,
    key: Tensor,
    _value: Tensor,
    attn_mask: Tensor | None = None,
    *_: object,
    scale: float | None = None,
    **_options: object,
) -> Tensor:
    # Rounding to 16 bits would blur a row of small shares.
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        first = query[:, :, :1].to(dtype) * (query.shape[-1] ** -0.5 if scale is None else scale)
        # A product of matrices would keep a copy of the keys, which attention keeps as they are.
        scores = (first * key).sum(-1)
        return (scores if attn_mask is None else scores + attn_mask[..., 0, :]).softmax(-1)
