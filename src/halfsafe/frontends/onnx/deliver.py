"""The fixed model as a file in FP32 and in FP16, and files in FP16 as they are."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir

from halfsafe.errors import BadInput, FoldError
from halfsafe.formats import FLOAT16, FloatFormat
from halfsafe.frontends.onnx.arithmetic import arrays
from halfsafe.frontends.onnx.feeds import feeds_of
from halfsafe.frontends.onnx.file import Given, data_of, label, load, write
from halfsafe.frontends.onnx.flatten import flatten
from halfsafe.frontends.onnx.half import drop_identities, to_float16
from halfsafe.frontends.onnx.kept import kept_words
from halfsafe.frontends.onnx.mapped import same
from halfsafe.frontends.onnx.program import OnnxProgram
from halfsafe.frontends.onnx.run import Evaluator, as_it_is
from halfsafe.frontends.onnx.runtime import session
from halfsafe.recipe import Recipe
from halfsafe.samples import Call
from halfsafe.source import Arrays


@dataclass(frozen=True)
class HalfFile:
    """A model in FP16, as it is.

    It is judged with its nodes run one by one, so that every value is rounded as it is stored: ONNX
    Runtime's CPU provider keeps FP32 between the FP16 nodes of a whole model, and hides overflow.
    """

    model: ir.Model
    names: tuple[str, ...] = ()
    engine: str = "strict"

    @cached_property
    def _order(self) -> list[int]:
        """Outputs in the order of `names`, where the file has these in another one."""
        own = [str(value.name) for value in self.model.graph.outputs]
        same = sorted(own) == sorted(self.names)
        return [own.index(name) for name in self.names] if same else list(range(len(own)))

    @cached_property
    def _nodes(self) -> Evaluator:
        return Evaluator(flatten(self.model))

    def check(self) -> None:
        """Raises BadInput where ONNX Runtime does not take the model whole."""
        session(self.model)

    def evaluate(self, call: Call, fmt: FloatFormat) -> Arrays:
        if fmt != FLOAT16:
            raise BadInput(f"a file in FP16 cannot be evaluated in {fmt.name}: its values are FP16")
        return self.read(x for (x,) in self._nodes.run(call, as_it_is))

    def half(self) -> HalfFile:
        return self

    def feeds(self, call: Call) -> dict[str, Any]:
        """A sample as arrays by input name. Raises BadInput for a misfit one."""
        return feeds_of(self.model, call)

    def read(self, outputs: Iterable[Any]) -> Arrays:
        """Its outputs, in the order of `names`."""
        found = arrays(outputs)
        return [found[i] for i in self._order]

    def census(self, call: Call) -> Counter[str]:
        """Of the floating values that nodes compute."""
        found: Counter[str] = Counter()

        def see(name: str, x: Any) -> None:
            computed = name not in self._nodes.model.graph.initializers
            if computed and x is not None and x.dtype.kind == "f":
                found[str(x.dtype)] += 1

        self._nodes.run(call, as_it_is, see=see)
        return found


@dataclass(frozen=True)
class OnnxDelivery:
    """The fixed model as FP32 and as FP16, each of the kind that was given.

    `read` are the files beside the given one that constants are read from; if there are any,
    constants are written beside the new file too.
    """

    given: Given
    exact: OnnxProgram
    deployed: OnnxProgram
    call: Call
    read: frozenset[Path]

    def float32(self) -> Any:
        return self._like_given(self.exact.model)

    def half(self) -> Any:
        return self._like_given(self._half())

    def runnable(self) -> HalfFile:
        return self._delivered

    def half_outputs(self, call: Call) -> Arrays:
        """What the file gives, its nodes run one by one; it must load whole, too."""
        return self._delivered.evaluate(call, FLOAT16)

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be FP32 in the FP16 file; nothing of a model that cannot be converted."""
        try:
            return tuple(kept_words(self._converted))
        except BadInput:
            return ()

    @cached_property
    def _converted(self) -> ir.Model:
        return self._half()

    @cached_property
    def _delivered(self) -> HalfFile:
        made = HalfFile(self._converted)
        made.check()
        return made

    def state_dict(self) -> dict[str, Any]:
        raise FoldError("an ONNX model has no state_dict: use fixed.model or fixed.save('x.onnx')")

    def recipe(self) -> Recipe:
        raise FoldError("a recipe is for checkpoints; an ONNX file holds its constants: save that")

    def apply_to(self, model: Any) -> Any:
        raise FoldError("constants of an ONNX model are in its file: use fixed.save('x.onnx')")

    def save(
        self,
        path: Path,
        dtype: Literal["float16", "float32"],
        io: Literal["float32", "float16"],
        labels: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Writes a .onnx file, whole or not at all, with labels as metadata of the nodes."""
        if path.suffix != ".onnx":
            raise BadInput(f"cannot write '{path}': give it the suffix .onnx")
        if data_of(path).resolve() in self.read:
            raise BadInput(
                f"cannot write '{path}': the model still reads its constants from "
                f"'{data_of(path).name}' there; give it another name"
            )
        proved = dtype == "float16" and io == "float32"
        if dtype == "float32":
            model = self.exact.model.clone()
        else:
            model = self._converted.clone() if proved else self._half(io)
        label(model, labels)
        loaded = proved and "_delivered" in vars(self)

        def check(file: Path) -> None:
            """Raises BadInput unless what was written is what was proved, and loads."""
            written = load(file)
            if not same(written, model):
                raise BadInput("the file that was written is not the model that was proved")
            if not loaded:
                session(written)

        write(model, path, beside=bool(self.read), check=check)

    def _half(self, io: Literal["float32", "float16"] = "float32") -> ir.Model:
        converted = to_float16(self.deployed.model, float32=self.deployed.float32, io=io)
        drop_identities(converted)
        return converted

    def _like_given(self, model: ir.Model) -> Any:
        return ir.to_proto(model) if isinstance(self.given, onnx.ModelProto) else model
