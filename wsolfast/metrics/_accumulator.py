"""Base class of the accumulators: integer counters that add up the same however the data are split."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wsolfast.ops._checks import check_type


class Accumulator:
    """Integer counters: ``update`` adds a batch to them, ``compute`` turns them into numbers.

    A subclass fills ``self._config`` (what must agree for two of them to be merged) and ``self.zeros`` (its counters,
    int64), and defines ``count(...)`` (the counters of one batch) and ``summarize(state)``.
    """

    _config: dict[str, object]
    zeros: dict[str, Tensor]

    def __init__(self) -> None:
        self.reset()

    def count(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the counters of one batch alone."""
        raise NotImplementedError

    def summarize(self, state: Mapping[str, Tensor], at: Any = None) -> dict:
        """Turn counters into numbers, each at its own best threshold or at the one given."""
        raise NotImplementedError

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch.

        Args:
            *args: what :meth:`count` takes.
            **kwargs: its options.
        """
        for name, value in self.count(*args, **kwargs).items():
            self._state[name] += value

    def compute(self, at: Any = None) -> dict:
        """Return the numbers of everything counted so far; ``at`` as for :meth:`summarize`."""
        return self.summarize(self._state, at)

    def scalars(self, at: Any = None) -> dict[str, float]:
        """Return :meth:`compute`'s numbers flat, each a plain number, as a logger takes them; curves are left out.

        Args:
            at: as for :meth:`summarize`.

        Returns:
            Numbers by name; one inside a table has both names, as in ``cam_threshold/gt_known_loc``.
        """
        return flat(self.compute(at))

    def reset(self) -> None:
        """Forget everything counted."""
        self._state = {name: zero.clone() for name, zero in self.zeros.items()}

    def merge_state(self, other: "Accumulator") -> None:
        """Add the counters of ``other``, an accumulator of the same configuration.

        Raises:
            ValueError: if it is of another type or configuration.
        """
        if type(other) is not type(self):
            raise ValueError(f"{type(self).__name__}: cannot merge a {type(other).__name__}")
        self._check_config(other._config)
        for name, value in other._state.items():
            self._state[name] += value

    def all_reduce(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Sum the counters over the processes of ``group``; each process has the total afterwards."""
        nccl = torch.distributed.get_backend(group) == "nccl"
        for name, value in self._state.items():
            total = value.cuda() if nccl else value
            torch.distributed.all_reduce(total, group=group)
            self._state[name] = total.cpu()

    def state_dict(self) -> dict:
        """Return a copy of the configuration and the counters."""
        return {"config": dict(self._config)} | {name: value.clone() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping) -> None:
        """Replace the counters by ``state``, which :meth:`state_dict` gave.

        Raises:
            ValueError: if they are of another configuration.
        """
        check_type(type(self).__name__, "state", state, Mapping)
        if set(state) != {"config", *self.zeros}:
            raise ValueError(f"{type(self).__name__}: expected counters {sorted(self.zeros)}, got {sorted(state)}")
        self._check_config(state["config"])
        self._state = {name: state[name].to(torch.int64).clone() for name in self.zeros}

    def __repr__(self) -> str:
        return described(type(self).__name__, self._config, self._state)

    def _check_config(self, other: Mapping[str, object]) -> None:
        for name, value in self._config.items():
            if other.get(name) != value:
                raise ValueError(f"{type(self).__name__}: counters of another {_named(name, value, other.get(name))}")


def flat(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return the plain numbers of ``summarize``'s, those of inner tables as outer/inner; curves are left out."""
    found: dict[str, float] = {}
    for name, value in numbers.items():
        if isinstance(value, Mapping) and name != "curves":
            found |= {f"{name}/{inner}": number for inner, number in flat(value).items()}
        elif isinstance(value, int | float):
            found[name] = value
    return found


def described(kind: str, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return how an accumulator shows itself: its protocol or size, and how many images it has counted."""
    protocol = config.get("protocol")
    about = f"size={config['size']}" if protocol is None else f"protocol={protocol['name']!r}"
    return f"{kind}({about}, images={int(state['images'])})"


def _named(name: str, ours: object, theirs: object) -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return f"{name}: {', '.join(key for key in ours if ours[key] != theirs.get(key))} differ"
    return f"{name}: {theirs!r} instead of {ours!r}"
