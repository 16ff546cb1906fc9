"""Gate forms in ATen: `halfsafe.forms.Renderer` over nodes of an FX graph."""

# torch.fx is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import fx

from halfsafe.errors import EditError
from halfsafe.forms import FORM_OF, Operator, Term, Word, render
from halfsafe.frontends.torch.schema import argument, aten, operator_name, schema_arguments

SELU_SCALE = 1.0507009873554804934193349852946
"""The slope that aten.selu has for positive numbers."""


class Editor(Protocol):
    """What a form needs of the editor: the graph, and new nodes."""

    graph: fx.Graph

    def call(self, target: Any, *args: Any, like: fx.Node, **kwargs: Any) -> fx.Node: ...


def lower(editor: Editor, node: fx.Node, form: str) -> None:
    """Puts an operator into its gate form. Raises EditError for one that it does not have."""
    operator = operator_name(node)
    if FORM_OF.get(operator) != form:
        raise EditError(f"{node.name}: {operator} has no form '{form}'")
    with editor.graph.inserting_before(node):
        render(form, _Renderer(editor, node))


OPERATORS: Mapping[Word, Any] = {
    "add": aten.add.Tensor,
    "sub": aten.sub.Tensor,
    "mul": aten.mul.Tensor,
    "clip": aten.clamp.default,
    "relu": aten.relu.default,
    "sigmoid": aten.sigmoid.default,
    "hardsigmoid": aten.hardsigmoid.default,
    "tanh": aten.tanh.default,
    "erf": aten.erf.default,
    "softplus": aten.softplus.default,
    "largest": aten.amax.default,
}
"""The operator that each word is, but for `kept`."""


class _Renderer:
    """The call that is replaced, and the calls that are put in front of it."""

    def __init__(self, editor: Editor, node: fx.Node) -> None:
        self.editor, self.node = editor, node

    @property
    def operator(self) -> Operator:
        """Its numbers, and whether it is a GELU by tanh."""
        found = schema_arguments(self.node.target, self.node.args, self.node.kwargs)
        held = {name: value for name, _, value in found}
        scale = SELU_SCALE if operator_name(self.node) == "aten.selu" else held.get("scale", 1.0)
        return Operator(Term(), scale=scale, by_tanh=held.get("approximate") == "tanh")

    def read(self) -> fx.Node:
        """What the operator is of."""
        return argument(self.node, "self")[0]

    def call(self, word: Word, *operands: fx.Node | float) -> fx.Node:
        """A new call in front, of the operator's module and line."""
        node = self.node
        if word == "kept":
            rest = {name: held for name, held in node.kwargs.items() if name != "self"}
            return self.editor.call(node.target, *operands, *node.args[1:], like=node, **rest)
        axes = ([argument(node, "dim")[0]], True) if word == "largest" else ()
        return self.editor.call(OPERATORS[word], *operands, *axes, like=node)

    def become(self, word: Word, *operands: fx.Node | float) -> None:
        """The last call takes the operator's readers, or the operator reads what is before it."""
        if word == "kept":
            argument(self.node, "self")[1](*operands)
            return
        self.node.replace_all_uses_with(self.call(word, *operands))
        self.editor.graph.erase_node(self.node)
