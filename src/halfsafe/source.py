"""What the pipeline asks of a front end. The pipeline itself knows no framework."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from numpy.typing import NDArray

from halfsafe.deviation import Comparison
from halfsafe.edits import Edit
from halfsafe.formats import FLOAT32, FloatFormat
from halfsafe.graph import Graph
from halfsafe.progress import Progress as Progress
from halfsafe.ranges import Range
from halfsafe.recipe import Recipe
from halfsafe.samples import Call

Arrays = Sequence[NDArray[Any]]
"""Outputs, floating ones in FP32 or FP64."""

Shown = Callable[[Call, Arrays, Arrays, Arrays], None]
"""Called with the outputs of a sample in FP32, in FP16 and at the floor."""

ShownOn = Callable[[Call, Sequence[Arrays]], object]
"""Called with the outputs of a sample on each lane."""


class Runnable(Protocol):
    """Something that gives outputs in half precision: what an engine is given to build."""

    def evaluate(self, call: Call, fmt: FloatFormat) -> Arrays:
        """Outputs of the graph, in FP32 arithmetic, every value stored in a format."""
        ...

    def half(self) -> Half:
        """The model in FP16, in its framework's own terms."""
        ...


class Part(Runnable, Protocol):
    """A network, or a part of one, of which parts can be taken. Immutable."""

    @property
    def graph(self) -> Graph: ...

    @property
    def steps(self) -> Sequence[tuple[str, ...]]:
        """The graph's nodes in order, those together between which nothing can be cut."""
        ...

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers."""
        ...

    def fingerprint(self) -> str:
        """The same for the same operators with the same constants, and for no others."""
        ...

    def evaluate(self, call: Call, fmt: FloatFormat, only: Container[str] | None = None) -> Arrays:
        """Outputs in FP32 arithmetic, every value, or some, stored in a format."""
        ...

    def evaluate_on(
        self, calls: Sequence[Call], formats: Sequence[FloatFormat]
    ) -> list[list[Arrays]]:
        """The same of several samples in several formats, in one pass side by side."""
        ...

    def extract(self, inputs: Sequence[str] | None, outputs: Sequence[str]) -> Part:
        """The part that computes some values from others, or from the network's own inputs.

        It shares the constants. What takes `inputs` takes them as `arguments` gives them.
        """
        ...

    def arguments(self, values: Mapping[str, Any]) -> Call:
        """Values of the graph, in NumPy or as they are, as a sample for a part that takes them."""
        ...

    def given(self, call: Call) -> Mapping[str, Any]:
        """What a sample has for each input of the graph."""
        ...


class Half(Runnable, Protocol):
    """A model in half precision, run as it is."""

    @property
    def engine(self) -> str:
        """Which engine judges it: what judges it must run the original alike."""
        ...

    def census(self, call: Call) -> Mapping[str, int]:
        """How many values of each type it stores, operator by operator."""
        ...


class Source(Part, Protocol):
    """A captured model. Immutable: `apply` gives another one."""

    @property
    def name(self) -> str:
        """The user's name for the model."""
        ...

    def array(self, constant: str) -> NDArray[Any]:
        """A constant's entries."""
        ...

    def run_node(self, node: str, values: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """What one operator gives in FP32, of values by name and its own constants.

        Operators that only move entries take arrays of any type.
        """
        ...

    @property
    def captured_exactly(self) -> bool:
        """Whether the captured graph is bit-equal to the user's model in FP32."""
        ...

    @property
    def holds_half(self) -> bool:
        """Whether FP16 has every constant: then the model has been rounded already."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the capture."""
        ...

    def measure(
        self,
        calls: Iterable[Call],
        progress: Progress,
        only: Container[str] | None = None,
        formats: Sequence[FloatFormat] = (FLOAT32,),
        shown: ShownOn | None = None,
    ) -> dict[str, Range]:
        """Ranges of inputs and activations, or of some of them, in FP32, one pass a sample.

        `formats` are those of lanes that are computed in the same pass, FP32 the first, of which
        the outputs are `shown`.
        """
        ...

    def compare(
        self, calls: Iterable[Call], progress: Progress, shown: Shown | None = None
    ) -> tuple[dict[str, Range], dict[str, Comparison]]:
        """The same ranges, and what FP16 as it is makes of each value, in one pass a sample.

        Of integers, the error is the root of the share that differ.
        """
        ...

    def constants(self) -> dict[str, Range]:
        """Ranges of constants and literals."""
        ...

    def apply(self, edits: Iterable[Edit]) -> Self: ...

    def reference(self, call: Call, computed: Arrays | None = None) -> Arrays:
        """Outputs of the user's own model in FP32.

        `computed` are those of the graph: they are given back where the source knows that on such
        a sample the model gives these very bits.
        """
        ...

    def is_half(self, candidate: Any) -> bool:
        """Whether a candidate, a model of the same kind, is in half precision already."""
        ...

    def running(self, candidate: Any) -> Half:
        """A candidate in half precision, to be run as it is."""
        ...

    def deliver(self, original: Self, deployed: Self, call: Call) -> Delivery:
        """What the user gets of this source, an edited `original`, and its FP16 variant."""
        ...


class Delivery(Protocol):
    """A fixed model in the forms in which people deploy it."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the FP16 deployable."""
        ...

    def float32(self) -> Any: ...

    def half(self) -> Any: ...

    def runnable(self) -> Runnable:
        """The FP16 deployable, for an engine to build."""
        ...

    def half_outputs(self, call: Call) -> Arrays | None:
        """What the FP16 deployable gives, of inputs in FP32; None if only its types were run.

        Raises whatever running it raises.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def recipe(self) -> Recipe:
        """Exponents of its tensors by name. Raises FoldError if the plan needs more."""
        ...

    def apply_to(self, model: Any) -> Any: ...

    def save(
        self,
        path: Path,
        dtype: Literal["float16", "float32"],
        io: Literal["float32", "float16"],
        labels: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Writes a file; where it has room for labels of computed values, with those."""
        ...
