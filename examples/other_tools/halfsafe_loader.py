from typing import Any

import onnx
from polygraphy import util
from polygraphy.backend.base import BaseLoader
from polygraphy.logger import G_LOGGER

import halfsafe


class HalfSafe(BaseLoader):
    """An ONNX model in FP16. Model and feed dicts are given, or functions that give them."""

    def __init__(self, model: Any, samples: Any) -> None:
        self._model, self._samples = model, samples

    def call_impl(self) -> onnx.ModelProto:
        model, _ = util.invoke_if_callable(self._model)
        samples, _ = util.invoke_if_callable(self._samples)
        fixed = halfsafe.fix(model, list(samples))
        if not fixed.report.safe:
            G_LOGGER.critical(fixed.report.text())  # raises PolygraphyException
        return fixed.half()
