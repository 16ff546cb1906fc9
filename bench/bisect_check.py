"""Whether a file is right in FP16: ``python -m bench.bisect_check MODEL VALUES TOLERANCE``.

The check that `polygraphy debug reduce` is given: exit status 1 if an output of the file, run
strictly, is off by more than the tolerance beside FP32, relative to its largest entry. VALUES is an
.npz of what each value of the whole network is, so that a part of it gets its real inputs.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx

from bench.judge import Strict, fed, max_rel, session


def error(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> float:
    pair = (session(model), session(Strict(model, "half").model))
    reference, found = (fed(run, values) for run in pair)
    return max_rel(reference, found)


def main(model: str, values: str, tolerance: str) -> int:
    found = error(onnx.load(model), dict(np.load(values)))
    print(found)
    return int(not found <= float(tolerance))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
