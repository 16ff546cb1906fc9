"""Gate forms: a carrier at any exponent, and a gate or a rest that saturates.

A form is the same function of real numbers as its operator, in words that every dialect renders.
What it clips is constant in FP32 beyond the bound, or goes on as a line that is added; infinities
and NaN come out as they did.

To add one, write its law below and its operators into FORM_OF; a new word goes into both dialects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi, sqrt
from typing import Literal, Protocol, TypeVar

FAR = 2.0**14
"""Gates are constant beyond it, and it leaves room in FP16 at exponents from -1 to 28."""

Word = Literal[
    "add", "sub", "mul", "clip", "relu", "sigmoid", "hardsigmoid", "tanh", "erf", "softplus",
    "largest", "kept",
]  # fmt: skip
"""What forms are made of. `largest` is over the axes of a softmax, which stay as axes of size 1;
`kept` is the operator itself, on another operand."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """What a word makes of its operands; what the operator reads is made of nothing.

    >>> x = Term()
    >>> (x * 0.5).operands == (x, 0.5), x * 1.0 is x
    (True, True)
    """

    word: Word | None = None
    operands: tuple[Term | float, ...] = ()

    def __add__(self, other: Term | float) -> Term:
        return Term("add", (self, other))

    def __sub__(self, other: Term | float) -> Term:
        return Term("sub", (self, other))

    def __mul__(self, other: Term | float) -> Term:
        return self if other == 1.0 else Term("mul", (self, other))


def relu(x: Term) -> Term:
    """max(x, 0)."""
    return Term("relu", (x,))


def clip(x: Term, *bounds: float) -> Term:
    """min(max(x, low), high); without a high, max(x, low)."""
    return Term("clip", (x, *bounds))


def sigmoid(x: Term) -> Term:
    """1 / (1 + exp(-x))."""
    return Term("sigmoid", (x,))


def hardsigmoid(x: Term) -> Term:
    """max(0, min(1, x/6 + 1/2))."""
    return Term("hardsigmoid", (x,))


def tanh(x: Term) -> Term:
    """tanh(x)."""
    return Term("tanh", (x,))


def erf(x: Term) -> Term:
    """erf(x)."""
    return Term("erf", (x,))


def log_1p_exp(x: Term) -> Term:
    """log(1 + exp(x))."""
    return Term("softplus", (x,))


def largest(x: Term) -> Term:
    """max(x), over the axes of a softmax."""
    return Term("largest", (x,))


def kept(x: Term) -> Term:
    """The operator itself."""
    return Term("kept", (x,))


@dataclass(frozen=True, slots=True)
class Operator:
    """What a form asks of the operator: what it reads, its numbers, and which GELU it is."""

    x: Term
    scale: float = 1.0
    slope: float = 1.0
    by_tanh: bool = False


def silu(op: Operator) -> Term:
    """silu(x) = x sigmoid(a x), with a slope a of 1."""
    return op.x * sigmoid(op.x * op.slope)


def hardswish(op: Operator) -> Term:
    """hardswish(x) = x hardsigmoid(x)."""
    return op.x * hardsigmoid(op.x)


def mish(op: Operator) -> Term:
    """mish(x) = x tanh(log(1 + exp(x)))."""
    return op.x * tanh(log_1p_exp(clip(op.x, -FAR, FAR)))


def gelu(op: Operator) -> Term:
    """gelu(x) = x (1 + erf(x / sqrt(2))) / 2; the number next to x takes its exponent."""
    if op.by_tanh:
        return gelu_by_tanh(op)
    return op.x * ((erf(clip(op.x, -FAR, FAR) * sqrt(0.5)) + 1.0) * 0.5)


def gelu_by_tanh(op: Operator) -> Term:
    """(1 + tanh(u)) / 2 = sigmoid(2u), and for v = 2 sqrt(2/pi) x, 2u = v (1 + 0.044715 pi/8 v^2).

    The number in v takes x's exponent. At 64, 2u is 18770, which FP16 holds.
    """
    v = clip(op.x, -64.0, 64.0) * (2.0 * sqrt(2.0 / pi))
    return op.x * sigmoid(v * (v * v * (0.044715 * pi / 8.0) + 1.0))


def elu(op: Operator) -> Term:
    """elu(x) = s max(x, 0) + elu(min(x, 0)), the latter constant below -2^14; SELU's s is gamma."""
    return relu(op.x) * op.scale + kept(clip(op.x, -FAR, 0.0))


def softplus(op: Operator) -> Term:
    """softplus(x) = max(x - 2^14, 0) + softplus(min(x, 2^14)), the latter 0 below -2^14."""
    return relu(op.x - FAR) + kept(clip(op.x, -FAR, FAR))


def softmax(op: Operator) -> Term:
    """softmax(x) = softmax(max(x - max(x), -2^14)): differences that large are 0 after exp."""
    return kept(clip(op.x - largest(op.x), -FAR))


def log_softmax(op: Operator) -> Term:
    """log_softmax(x) = d + max(log_softmax(max(d, -2^14))) for d = x - max(x), whose max is 0."""
    below = op.x - largest(op.x)
    return below + largest(kept(clip(below, -FAR)))


FORMS: Mapping[str, Callable[[Operator], Term]] = {
    "elu": elu,
    "gelu": gelu,
    "hardswish": hardswish,
    "log_softmax": log_softmax,
    "mish": mish,
    "selu": elu,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
}

_OPERATORS: Mapping[str, str] = {
    "elu": "aten.elu aten.celu onnx.Elu",
    "gelu": "aten.gelu onnx.Gelu com.microsoft.Gelu com.microsoft.BiasGelu com.microsoft.FastGelu",
    "hardswish": "aten.hardswish onnx.HardSwish",
    "log_softmax": "aten.log_softmax aten._log_softmax onnx.LogSoftmax",
    "mish": "aten.mish onnx.Mish",
    "selu": "aten.selu onnx.Selu",
    "silu": "aten.silu onnx.Swish com.microsoft.QuickGelu",
    "softmax": "aten.softmax aten._softmax onnx.Softmax",
    "softplus": "aten.softplus onnx.Softplus",
}

FORM_OF: Mapping[str, str] = {op: form for form, ops in _OPERATORS.items() for op in ops.split()}
"""The form of each operator that has one, by its name in its dialect."""


V = TypeVar("V")


class Renderer(Protocol[V]):
    """One operator in one dialect, whose values are V, and what is put in its place."""

    @property
    def operator(self) -> Operator:
        """The operator's numbers, and a new term for what it reads."""
        ...

    def read(self) -> V:
        """What the operator is of."""
        ...

    def call(self, word: Word, *operands: V | float) -> V:
        """A new node in front of the operator."""
        ...

    def become(self, word: Word, *operands: V | float) -> None:
        """Turns the operator into the last node of its form; `kept`, it reads something else."""
        ...


def render(form: str, renderer: Renderer[V]) -> None:
    """Puts an operator into a form; what a form says twice as one term is made once."""
    operator = renderer.operator
    root = FORMS[form](operator)
    made: dict[Term, V] = {operator.x: renderer.read()}

    def value(operand: Term | float) -> V | float:
        if not isinstance(operand, Term):
            return operand
        if operand not in made:
            assert operand.word is not None
            made[operand] = renderer.call(operand.word, *map(value, operand.operands))
        return made[operand]

    assert root.word is not None
    renderer.become(root.word, *map(value, root.operands))
