"""FP16 files before a real engine: parsed strongly typed by TensorRT for RTX, built for each GPU.

Run as ``python -m bench.engine_files`` after ``make trained``; with names as arguments only those
are looked at, and nothing is recorded. The files are those of the other benches: architectures,
exported as in bench/onnx_accuracy.py; trained files of bench/trained.py, fixed in the environment
that has them; the detectors of the two examples. Neither parsing nor building needs a GPU.

In a strongly typed network the types of the file decide, so that every layer of type FLOAT is
accounted for: it casts or hands on an input or an output of the network, it is of an island or a
multiplication that the report declares, or it is a cast, or made by the parser, and only such
layers read it. Layers of operators that have to be FP32, as the report notes of Range, are counted
by themselves. What is left is a layer that nobody has declared. An engine is built for every
compute capability that the package names. Where parser or builder refuse, the original FP32 file is
tried too.
"""

# tensorrt_rtx has no types; torch is not in the environment of the trained files.
# pyright: basic

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import halfsafe
from halfsafe.frontends.onnx.kept import doubles, kept

COMMAND = "python -m bench.engine_files"
TRAINED = Path(".venv-trained/bin/python")
"""The environment of ``make trained``."""

LIMIT = 900
"""Seconds for one process."""

Feeds = dict[str, np.ndarray[Any, Any]]


# Writing


def write(group: str, name: str, folder: Path) -> dict[str, Any]:
    """Writes what is fixed, and a sample beside it; what the report says of it."""
    source, samples = SOURCES[group](name, folder)
    fixed = halfsafe.fix(str(source), samples)
    fixed.save(folder / "half.onnx")
    np.savez(folder / "sample.npz", **samples[0])
    report = fixed.report
    return {
        "original": str(source),
        "verdict": str(report.answer),
        "operators": len(report.graph.nodes),
        "islands": list(report.islands),
        "inserted": list(report.insertions),
        "notes": list(report.notes),
    }


def architecture(name: str, folder: Path) -> tuple[Path, list[Feeds]]:
    from bench.architectures import ARCHITECTURES
    from bench.onnx_accuracy import export

    model, samples = ARCHITECTURES[name].build()
    export(model, samples[0], folder / "full.onnx")
    return folder / "full.onnx", [{k: x.numpy() for k, x in one.items()} for one in samples]


def trained(name: str, folder: Path) -> tuple[Path, list[Feeds]]:
    from bench.trained import MODELS, SEEN

    found = MODELS[name]
    onnx.save(found.model, folder / "full.onnx")
    return folder / "full.onnx", [found.sample(i) for i in range(SEEN)]


def example(name: str, folder: Path) -> tuple[Path, list[Feeds]]:
    if name == "ocr":
        from examples.ocr.detector import drawn, file

        return file(), drawn(3)
    from bench.onnx_accuracy import export
    from examples.panet.demo import detector

    model, samples = detector()
    export(model, {"image": samples[0][0]}, folder / "full.onnx")
    return folder / "full.onnx", [{"image": x.numpy()} for (x,) in samples]


SOURCES = {"architecture": architecture, "trained": trained, "example": example}


# Examining


def examine(folder: Path, original: Path, report: dict[str, Any]) -> dict[str, Any]:
    """What TensorRT for RTX makes of a file, and where it refuses, of its original."""
    import tensorrt_rtx as trt

    from halfsafe.engines.tensorrt import Network

    feeds = dict(np.load(folder / "sample.npz"))
    model, declared = named(ir.load(folder / "half.onnx"), report["islands"], report["inserted"])
    has_to = told(model, report["notes"])
    scaled = any(text.endswith(", in FP32") for text in report["inserted"])
    try:
        network = Network(trt, model)
    except halfsafe.BadInput as error:
        return {"refused": str(error), "original_refused": refused(trt, original, feeds)}
    floats = [layer for layer, output in network.outputs() if output.dtype == trt.float32]
    row: dict[str, Any] = {
        "layers": network.network.num_layers,
        "float_layers": len({layer.name for layer in floats}),
        "undeclared": undeclared(trt, network, declared | has_to, scaled),
        "built": [],
    }
    without = undeclared(trt, network, declared, scaled)
    row["has_to_be_float"] = [text for text in without if text not in row["undeclared"]]
    for target in capabilities(trt):
        try:
            row.setdefault("bytes", len(network.engine(feeds, (target,))))
            row["built"].append(target.name)
        except halfsafe.BadInput as error:
            row["not_built"] = str(error)
    if "not_built" in row:
        row["original_refused"] = refused(trt, original, feeds)
    return row


def capabilities(trt: Any) -> list[Any]:
    """The GPUs for which an engine can be built ahead of time."""
    members = trt.ComputeCapability.__members__
    return [x for name, x in members.items() if name not in ("NONE", "CURRENT")]


def refused(trt: Any, original: Path, feeds: Feeds) -> str | None:
    """Why the original is refused as well; None if it is not."""
    from halfsafe.engines.tensorrt import Network

    try:
        Network(trt, ir.load(original)).engine(feeds, (capabilities(trt)[-1],))
    except halfsafe.BadInput as error:
        return str(error)
    return None


def named(model: ir.Model, islands: list[str], inserted: list[str]) -> tuple[ir.Model, set[str]]:
    """The model with a name of its own for every node, and the names of those that are declared.

    The report tells of an island by the names of its nodes, and then why; of a multiplication by
    the operand that it is in front of.
    """
    held = {name for island in islands for name in island.partition(": ")[0].split(", ")}
    fronts = [text.partition(" in front of ")[2] for text in inserted]
    factors = tuple(f"halfsafe.{operand}.scaled" for operand in fronts if operand)
    declared: set[str] = set()
    for i, node in enumerate(model.graph.all_nodes()):
        known, node.name = str(node.name), f"{node.op_type}.{i}"
        if known in held or known.startswith(factors):
            declared.add(node.name)
    return model, declared


def told(model: ir.Model, notes: list[str]) -> set[str]:
    """Names of the operators that have to be FP32, as far as a note tells of all of their type."""
    found: set[str] = set()
    for why, nodes in kept(model).items():
        (note,) = [n for n in notes if f"since {why}: " in n] or [""]
        count = Counter(node.op_type for node in nodes)
        found |= {str(n.name) for n in nodes if f" {count[n.op_type]} {n.op_type}," in note}
    if any("computes in FP64" in note for note in notes):  # FP32 in TensorRT
        found |= {str(n.name) for n in doubles(model)}
    return found


def undeclared(trt: Any, network: Any, declared: set[str], scaled: bool) -> list[str]:
    """Layers of type FLOAT that are neither at the rim nor of an island, nor made for one.

    At the rim inputs and outputs are cast and, where they are `scaled`, multiplied.
    """
    layers = {layer.name: layer for layer, out in network.outputs() if out.dtype == trt.float32}
    readers = readers_of(network)
    makers = {output.name: layer for layer, output in network.outputs()}
    rim = {trt.LayerType.CAST} | ({trt.LayerType.ELEMENTWISE} if scaled else set())
    fine = {layer.name for layer, _ in network.outputs() if node_of(layer) in declared}
    fine |= {x.name for x, o in network.outputs() if o.dtype != trt.float32 and of_rim(x, makers)}
    fine |= {
        name
        for name, layer in layers.items()
        if hands_on(trt, layer, makers) or (layer.type in rim and at_rim(layer))
    }
    casts = {n for n, x in layers.items() if x.type == trt.LayerType.CAST}
    given = casts | {layer.name for layer, _ in network.outputs() if not layer.metadata}
    while more := {n for n in given - fine if readers[n] and readers[n] <= fine}:
        fine |= more
    left = (layers[name] for name in layers if name not in fine)
    return [f"{layer.name} ({layer.type.name}{_from(layer)})" for layer in left]


def readers_of(network: Any) -> dict[str, set[str]]:
    """The layers that read what a layer gives, by name."""
    makers = {output.name: layer.name for layer, output in network.outputs()}
    readers: dict[str, set[str]] = {name: set() for name in makers.values()}
    for layer in {layer.name: layer for layer, _ in network.outputs()}.values():
        for tensor in (layer.get_input(i) for i in range(layer.num_inputs)):
            if tensor is not None and tensor.name in makers:
                readers[makers[tensor.name]].add(layer.name)
    return readers


def hands_on(trt: Any, layer: Any, makers: dict[str, Any]) -> bool:
    """Whether a layer only brings an input of the network into a branch, where it is cast."""
    if layer.type != trt.LayerType.CONDITIONAL_INPUT:
        return False
    given = layer.get_input(0)
    outer = makers.get(given.name)
    return given.is_network_input or (outer is not None and hands_on(trt, outer, makers))


def of_rim(layer: Any, makers: dict[str, Any]) -> bool:
    """Whether a layer reads inputs of the network and constants alone, however broadcast."""
    read = [t for t in (layer.get_input(i) for i in range(layer.num_inputs)) if t is not None]
    inner = (makers.get(tensor.name) for tensor in read if not tensor.is_network_input)
    return all(x is not None and not x.metadata and of_rim(x, makers) for x in inner)


def at_rim(layer: Any) -> bool:
    """Whether a layer reads an input of the network, or gives an output."""
    read = (layer.get_input(i) for i in range(layer.num_inputs))
    made = (layer.get_output(i) for i in range(layer.num_outputs))
    inputs = (tensor.is_network_input for tensor in read if tensor is not None)
    return any(inputs) or any(output.is_network_output for output in made)


def node_of(layer: Any) -> str:
    """The node of the file that a layer is made for."""
    return layer.metadata.removeprefix("[ONNX Layer: ").removesuffix("]")


def _from(layer: Any) -> str:
    return f" of {node_of(layer)}" if layer.metadata else ""


# Processes


def process(*command: str) -> dict[str, Any]:
    """A step in a process of its own; a traceback is a result."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"over {LIMIT} s"}
    if done.returncode:
        last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        return {"error": last[:300]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(group: str, name: str, folder: Path) -> dict[str, Any]:
    python = str(TRAINED) if group == "trained" else sys.executable
    module = ("-m", "bench.engine_files")
    row = {"file": name, "group": group}
    row |= process(python, *module, "--write", group, name, str(folder))
    if "error" in row:
        return row
    original, report = row.pop("original"), json.dumps(row)
    return row | process(sys.executable, *module, "--examine", str(folder), original, report)


def files() -> Iterator[tuple[str, str]]:
    """What the benches fix, by group and name, as far as its packages are installed."""
    from bench.architectures import ARCHITECTURES

    yield from (("architecture", name) for name in ARCHITECTURES)
    if TRAINED.exists():
        code = "from bench.trained import MODELS; import json; print(json.dumps(list(MODELS)))"
        done = subprocess.run(
            [str(TRAINED), "-c", code], capture_output=True, text=True, check=True
        )
        yield from (("trained", name) for name in json.loads(done.stdout))
    yield "example", "panet"
    if find_spec("rapidocr_onnxruntime"):
        yield "example", "ocr"


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    head = ("file", "layers", "FLOAT", "has to", "undeclared", "built for", "refused")
    yield "{:24} {:>6} {:>6} {:>6} {:>10} {:>9}  {}".format(*head)
    for row in rows:
        why = row.get("error") or row.get("refused") or row.get("not_built") or ""
        lists = ("has_to_be_float", "undeclared")
        left = [len(row.get(key, ())) if "layers" in row else "" for key in lists]
        counts = (row.get("layers", ""), row.get("float_layers", ""), *left)
        alike = "FP32 too: " if row.get("original_refused") else ""
        yield "{:24} {:>6} {:>6} {:>6} {:>10} {:>9}  {}".format(
            row["file"], *counts, len(row.get("built", ())), (alike + why)[:100]
        )


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    parsed = [row for row in rows if "layers" in row]
    failed = [row for row in rows if {"error", "refused", "not_built"} & row.keys()]
    return {
        "files": len(rows),
        "parsed": len(parsed),
        "layers": sum(row["layers"] for row in parsed),
        "has_to_be_float_layers": sum(len(row["has_to_be_float"]) for row in parsed),
        "undeclared_float_layers": sum(len(row["undeclared"]) for row in parsed),
        "built": sum("not_built" not in row for row in parsed),
        "refused_in_fp16_only": [r["file"] for r in failed if not r.get("original_refused")],
        "refused_in_fp32_too": [r["file"] for r in failed if r.get("original_refused")],
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if sys.argv[1:2] == ["--write"]:
        print(json.dumps(write(sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
        return
    if sys.argv[1:2] == ["--examine"]:
        print(json.dumps(examine(Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))))
        return
    rows: list[dict[str, Any]] = []
    for group, name in files():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(group, name, Path(folder)))
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    print(*table(rows), sep="\n")
    summary = summary_of(rows)
    print(json.dumps(summary, indent=1))
    if not sys.argv[1:]:
        from bench.record import record

        engine = {"tensorrt_rtx": version("tensorrt_rtx")}
        record("engine_files", COMMAND, {"engine": engine, "summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
