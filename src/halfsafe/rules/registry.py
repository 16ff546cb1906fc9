"""The law of every operator, by name: those of both dialects, and anyone's own."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

from halfsafe.errors import BadInput
from halfsafe.graph import Graph, Node
from halfsafe.rules.algebra import Law, Rule, Traits
from halfsafe.rules.aten import LAWS as ATEN
from halfsafe.rules.onnx import LAWS as ONNX
from halfsafe.rules.traits import law

LAWS: dict[str, Law] = {**ATEN, **ONNX}


def law_of(node: Node) -> Law | None:
    """The law of a node's operator, None if there is none."""
    return LAWS.get(node.op)


def traits_of(node: Node) -> Traits:
    """What a node's operator is like; one without a law has no traits."""
    known = law_of(node)
    return Traits() if known is None else known.traits


def unknown_ops(graph: Graph) -> list[str]:
    """Operators on floating values that have no law and are therefore pinned."""
    floating = (
        node
        for node in graph.nodes
        if any(graph.values[v].floating for v in (*node.inputs.values(), *node.outputs))
    )
    return sorted({node.op for node in floating if node.op not in LAWS})


def register(op: str, traits: Traits | None = None) -> Callable[[Rule], Rule]:
    """Gives an operator that has no law one: the rule that this decorates.

    `op` is ``"mylib::op"`` for an operator of torch.library, ``"my.domain.Op"`` for one of ONNX.
    The rule is a function of the exponents of one node, as those of `halfsafe.rules.families` are,
    any of which will do as well. `traits` say what else the planner should know; those of a family
    are known. Raises BadInput for a name without a namespace, an operator that has a law, and for
    what is no rule.
    """
    name = op.replace("::", ".")
    if "." not in name:
        raise BadInput(
            f"'{op}' has no namespace: write 'mylib::{op}', or 'my.domain.{op}' for ONNX"
        )
    if name in LAWS:
        raise BadInput(
            f"{name} has a law already, '{LAWS[name].family}': give your operator another name"
        )

    def registered(rule: Rule) -> Rule:
        _check_rule(name, rule)
        known = law(rule)
        LAWS[name] = Law(rule, known.traits if traits is None else traits, strict=True)
        return rule

    return registered


def _check_rule(name: str, rule: object) -> None:
    if not callable(rule):
        what = type(rule).__name__
        raise BadInput(f"the law of {name} is a {what}: give a function of exponents")
    try:
        signature(rule).bind(None)
    except TypeError as error:
        raise BadInput(
            f"the law of {name}, {rule!r}, does not take one argument, the exponents of a node"
        ) from error
    except ValueError:
        return  # a builtin that does not tell what it takes
