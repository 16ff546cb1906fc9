"""Runs a graph node by node, on several lanes at once."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.random import fork_rng

from halfsafe.frontends.torch.schema import aten, draws
from halfsafe.measure import Lanes, Store

_RECURRENT = {getattr(aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}


def _check_state(x: Tensor, state: Tensor | Sequence[Tensor], *rest: Any) -> None:
    """Raises RuntimeError for a state of another batch: kernels would read beyond its end."""
    batch = x.shape[0 if rest[-1] else 1]
    first = state if isinstance(state, Tensor) else state[0]
    if first.shape[1] != batch:
        raise RuntimeError(f"a state of {first.shape[1]} rows for a batch of {batch}")


_NOT_READ = object()
"""What stands for a constant that no node has needed yet."""


@dataclass(frozen=True, slots=True)
class OnLanes:
    """What a node gives on each lane."""

    lanes: Lanes

    @property
    def same(self) -> bool:
        """Whether it is one object on all lanes, as what came before the first rounding is."""
        return all(x is self.lanes[0] for x in self.lanes)


class Evaluation(fx.Interpreter):
    """Runs a graph on one sample, every tensor passing through `store`, a node at a time.

    Each value is freed after its last use. On one lane, values are what torch.fx knows them to be;
    on several, they are OnLanes. A constant is read when a node needs it and is put into `held`,
    where the same node finds it on the samples beside this one; whoever steps through the nodes
    empties that after each, and a later reader reads the constant again.
    """

    outputs: list[Lanes]

    def __init__(
        self,
        graph: fx.Graph,
        bodies: Mapping[str, nn.Module],
        constants: Mapping[str, Tensor],
        held: dict[fx.Node, Any],
        store: Store,
        lanes: int,
        given: Iterable[Any],
    ) -> None:
        super().__init__(nn.ModuleDict(bodies), graph=graph)
        self._constants, self._held, self._store, self._lanes = constants, held, store, lanes
        self.args_iter = iter(given)

    def step(self, n: fx.Node) -> None:
        """Runs one node; the last one gives the outputs."""
        self.env[n] = self.run_node(n)
        if n.op == "output":
            self.outputs = self.env[n]
        for used in self.user_to_last_uses.get(n, ()):
            del self.env[used]

    def run_node(self, n: fx.Node) -> Any:
        if self._is_constant(n):
            return _NOT_READ
        unread = [x for x in n.all_input_nodes if self.env.get(x) is _NOT_READ]
        for source in unread:
            if source not in self._held:
                results = self._stored(source, (self._constants[str(source.target)],) * self._lanes)
                self._held[source] = OnLanes(results) if self._lanes > 1 else results[0]
            self.env[source] = self._held[source]
        try:
            return self._run_call(n)
        finally:
            self.env.update(dict.fromkeys(unread, _NOT_READ))

    def _is_constant(self, n: fx.Node) -> bool:
        """Whether a node is a tensor of the program's; else it is the branch of a condition."""
        return n.op == "get_attr" and str(n.target) in self._constants

    def _run_call(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        results = self._on_lanes(n, args, kwargs)
        if n.op == "output":
            return list(zip(*results, strict=True))
        if n.target is not operator.getitem:
            results = self._stored(n, results)
        return OnLanes(results) if self._lanes > 1 else results[0]

    def _on_lanes(self, n: fx.Node, args: Any, kwargs: Any) -> Lanes:
        """What a node gives on each lane; where all lanes read the same, it is computed once.

        Where it draws random numbers, these are the same on each lane.
        """
        if self._lanes == 1:
            return (self._result(n, args, kwargs),)
        read: list[OnLanes] = []
        map_aggregate((args, kwargs), lambda a: read.append(a) if isinstance(a, OnLanes) else None)
        if all(found.same for found in read):
            return (self._result(n, *_lane(0, args, kwargs)),) * self._lanes
        results: list[Any] = []
        for lane in range(self._lanes):
            last = lane == self._lanes - 1
            with fork_rng(enabled=draws(n) and not last):
                results.append(self._result(n, *_lane(lane, args, kwargs)))
        return tuple(results)

    def _result(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        if n.target in _RECURRENT:
            _check_state(*args)
        return getattr(self, n.op)(n.target, args, kwargs)

    def _stored(self, n: fx.Node, results: Lanes) -> Lanes:
        """A node's result, or each part of it, as the store makes it."""
        if isinstance(results[0], Tensor):
            name = str(n.target) if n.op == "get_attr" else n.name
            return self._store(name, results)
        if not isinstance(results[0], (tuple, list)):
            return results
        parts = [
            self._store(f"{n.name}.{i}", part) if isinstance(part[0], Tensor) else part
            for i, part in enumerate(zip(*results, strict=True))
        ]
        return tuple(zip(*parts, strict=True))


def _lane(lane: int, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments as one lane has them."""
    return map_aggregate(  # type: ignore[return-value]
        (args, kwargs), lambda a: a.lanes[lane] if isinstance(a, OnLanes) else a
    )
