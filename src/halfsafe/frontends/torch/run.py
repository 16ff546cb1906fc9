"""Runs a graph node by node."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from halfsafe.frontends.torch.schema import aten

Store = Callable[[str, Tensor], Tensor]
"""Called with each floating value as it is computed; what it returns is used from there on."""

_RECURRENT = {getattr(aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}


def _check_state(x: Tensor, state: Tensor | Sequence[Tensor], *rest: Any) -> None:
    """Raises RuntimeError for a state of another batch: kernels would read beyond its end."""
    batch = x.shape[0 if rest[-1] else 1]
    first = state if isinstance(state, Tensor) else state[0]
    if first.shape[1] != batch:
        raise RuntimeError(f"a state of {first.shape[1]} rows for a batch of {batch}")


class Evaluation(fx.Interpreter):
    """Runs a graph, passing floating values through `store`; frees them after their last use."""

    def __init__(self, module: fx.GraphModule, store: Store | None) -> None:
        super().__init__(module)
        self._store = store

    def run_node(self, n: fx.Node) -> Any:
        if n.target in _RECURRENT:
            _check_state(*self.fetch_args_kwargs_from_env(n)[0])
        result = super().run_node(n)
        if self._store is None or n.op == "output" or n.target is operator.getitem:
            return result
        if isinstance(result, Tensor):
            name = str(n.target) if n.op == "get_attr" else n.name
            return self._store(name, result) if result.is_floating_point() else result
        if isinstance(result, (tuple, list)):
            parts = enumerate(result)  # pyright: ignore[reportUnknownVariableType]
            return [
                self._store(f"{n.name}.{i}", part)
                if isinstance(part, Tensor) and part.is_floating_point()
                else part
                for i, part in parts
            ]
        return result
