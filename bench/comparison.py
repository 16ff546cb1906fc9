"""Prints docs/comparison.md: beside other tools, by what the benches have recorded alone.

    python -m bench.comparison > docs/comparison.md

Every figure is read from bench/results. A test compares the page with what this prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from math import isfinite
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

RESULTS = Path(__file__).parent / "results"
AUTOCAST = "modelopt.onnx.autocast"

ABOUT = """
What the benches have recorded, with versions and machines, in
[bench/results](../bench/results). This page is printed from there (`python -m bench.comparison`),
figures that are not ours to like included. Whatever a tool delivers is run strictly, every value
rounded to FP16 as it is stored, and judged by code that is no tool's own (`bench/judge.py`):
*right* is within the tolerance and as near to FP32 as FP16 gets, *limited* no better at the floor
of FP16 either, *wrong* what could have been right.
"""

NOT_OURS = (
    """AutoCast writes bfloat16 as well, and needs no samples. For `auto_mixed_precision` a function
    of yours may judge outputs at run time. `torch.autocast` casts while the model runs, with
    nothing written at all.""",
    "Polygraphy bisects on TensorRT itself, with tactics and layers of the built engine.",
    "Quantisation to 8 bits and fewer: halfsafe leaves quantised parts of a model as they are.",
    """transformers keeps `wo` of T5 in FP32 by itself (`_keep_in_fp32_modules`), and clamps its
    hidden states in FP16: for classes in which somebody has foreseen it.""",
)


# Text


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def prose(text: str, *, bullet: bool = False) -> Iterator[str]:
    yield fill(
        " ".join(text.split()),
        118,
        initial_indent="- " * bullet,
        subsequent_indent="  " * bullet,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if not bullet:
        yield ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(map(str, row)) + " |" for row in rows)
    yield ""


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def number(x: float) -> str:
    """Three digits, and no exponent: 0.43, 12.2, 539."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def spread(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{number(median(found))}, {number(found[-1])}"


def named(tool: str, version: str = "") -> str:
    shown = {"halfsafe": "`halfsafe fix`", AUTOCAST: "NVIDIA ModelOpt AutoCast"}
    return f"{shown.get(tool, f'`{tool}`')} {version}".strip()


# Sections


def architectures() -> Iterator[str]:
    """ONNX files in FP16"""
    found = read("onnx_peers")
    yield from prose(
        f"""{found["files"]} architectures (CNNs, ViTs, encoders, decoders, MoE, VAE, UNet),
        exported by torch.onnx.export, with random weights, amplified until FP16 breaks. Each tool
        runs in a process of its own, from reading the file to writing it
        (`{found["command"]}`):"""
    )

    def row(tool: str, each: dict[str, Any]) -> Iterator[object]:
        yield named(tool, "" if tool == "halfsafe" else each["version"])
        yield each["safe"]
        yield f"{each['nonfinite']}, {each['wrong']}, {len(each['errors'])}"
        macs = each["median_share_macs_float32"], each["max_share_macs_float32"]
        yield ", ".join(map(percent, macs))
        yield each["casts_inside"]
        yield number(each["seconds_with_start"])
        yield f"{each['max_mib_peak']:.0f} MiB"

    head = ("tool", "right or limited", "nonfinite, wrong, failed",
            "multiply-accumulates in FP32, median and worst", "Casts inside",
            "seconds, with start", "peak memory")  # fmt: skip
    yield from table(head, (list(row(*each)) for each in found["summary"].items()))


def trained() -> Iterator[str]:
    """Trained networks out of packages"""
    found = read("trained")
    yield from prose(
        """Speech, text recognition, detection, embeddings, int8 and recurrent ones, as they are and
        *moved* along a symmetry of their own until a value overflows (`make trained`). *The same
        answer* is that of the task: the text that is read, the class, the words heard."""
    )
    rows = [
        (point, named(tool), f"{each['right']} and {each['limited']} of {part['run']}",
         each["wrong"], len(each["errors"]), each["same_answer"], each["float32"])
        for point, part in found["summary"].items()
        for tool, each in part.items()
        if isinstance(each, dict) and "right" in each
    ]  # fmt: skip
    head = ("networks", "tool", "right and limited", "wrong", "failed", "the same answer",
            "operators in FP32")  # fmt: skip
    yield from table(head, rows)
    said = sum(part["halfsafe_verdict_safe"] for part in found["summary"].values())
    doubted = {name for part in found["summary"].values() for name in part["disagree"]}
    told = [
        f"{row['model']}, {row['point']} ({row['halfsafe']['judge_why'] or 'another answer'})"
        for row in found["rows"]
        if row["model"] in doubted
    ]
    yield from prose(
        f"`fix` says safe of {said}. Where the judge or the task doubts it: {'; '.join(told)}."
    )


def sizes() -> Iterator[str]:
    """Time and memory on files of real sizes"""
    rows = read("onnx_sizes")["rows"]
    files = [row["file_mib"] for row in rows]
    yield from prose(
        f"""ResNet-50, BERT-base, ViT-B/16, GPT-2, Stable Diffusion's VAE decoder, T5-base's encoder
        and a detector of the YOLO kind, {min(files):.0f} to {max(files):.0f} MiB (`python -m
        bench.onnx_sizes`). Both tools get the same samples. Times are of whole processes,
        halfsafe's over AutoCast's, the user's and with what the system takes for pages of memory;
        peak memory is without imports, over the file and its largest activation; right, limited
        and wrong is the judge's word on a sample that neither tool has seen:"""
    )

    def row(count: int) -> Iterator[object]:
        some = [row for row in rows if row["samples"] == count]
        yield count
        yield spread(r["over_autocast"] for r in some if "over_autocast" in r)
        yield spread(r["cpu_over_autocast"] for r in some if "cpu_over_autocast" in r)
        for tool in ("halfsafe", AUTOCAST):
            yield spread(r[tool]["peak_over_file"] for r in some if "peak_over_file" in r[tool])
        for tool in ("halfsafe", AUTOCAST):
            said = [r[tool].get("judge") for r in some]
            yield ", ".join(str(said.count(word)) for word in ("right", "limited", "wrong"))

    head = ("samples", "user time, median and worst", "with the system's",
            "peak memory, median and worst", "AutoCast's", "right, limited, wrong",
            "AutoCast's")  # fmt: skip
    yield from table(head, (list(row(n)) for n in sorted({row["samples"] for row in rows})))
    wrong = sorted({row["network"] for row in rows if row["halfsafe"].get("judge") == "wrong"})
    yield from prose(
        f"""With many samples AutoCast is quicker: it runs each once, halfsafe four times (FP32, the
        floor, and the fixed network in both). Where halfsafe is wrong on an unseen sample
        ({", ".join(wrong) or "nowhere"}), that is louder than all that were given by more than the
        default headroom of one bit: `--headroom` asks for more, and the report says what is
        left."""
    )


def directories() -> Iterator[str]:
    """Directories of transformers and diffusers"""
    found = read("directories")
    rows = [row for row in found["rows"] if not row["name"].startswith("pipeline_")]
    whole = [row for row in found["rows"] if row["name"].startswith("pipeline_") and row["safe"]]
    made = [row for row in rows if row["safe"]]
    tokens = [n for row in made for n in row.get("tokens_half", ())]
    over = [row["over_floor"] for row in made]
    yield from prose(
        f"""{len(rows)} networks, small, with random weights, amplified, saved by `save_pretrained`;
        read again in a process that has no halfsafe (`{found["command"]}`). Of
        {len(rows) - len(made)} no plan is within what their classes can hold, and this is
        said. Of the others:"""
    )
    head = ("`from_pretrained(..., dtype=float16)`", "finite", "error over the floor of FP16",
            "32 tokens as in FP32")  # fmt: skip
    finite = sum(isfinite(row["naive_error"]) for row in made)
    before = ("of the directory as it was", f"{finite} of {len(made)}", "", "")
    yield from table(
        head,
        [before,
         ("of `halfsafe fix DIR -o OUT`", f"{sum(row['finite'] for row in made)} of {len(made)}",
          f"{min(over):.2f} to {max(over):.2f}",
          f"{sum(n == 32 for n in tokens)} of {len(tokens)}")],
    )  # fmt: skip
    if whole:
        same = sum(row["bit_equal"] for row in whole)
        yield from prose(
            f"""Of {len(whole)} whole pipelines, run by diffusers in FP16 before and after,
            {sum(isfinite(row["naive_error"]) for row in whole)} drew a picture before, and
            {sum(row["finite"] for row in whole)} do now, at most
            {max(row["error"] for row in whole):.2g} of the range off; in FP32 {same} draw the same
            bits."""
        )


def localising() -> Iterator[str]:
    """Finding the producer"""
    found, bert = read("localising"), read("measuring")["rows"]["bert"]
    yield from prose(
        f"""One fault at a random module of each architecture, of six kinds, {found["plants"]} in
        all (`{found["command"]}`). *Named* is the operator with its module and line, or, by tools
        that see modules alone, the module:"""
    )
    what = {
        "DebugUnderflowOverflow": "transformers' DebugUnderflowOverflow, on the model in FP16",
        "hook script": "a script of forward hooks that compares with 65,504",
    }

    def row(tool: str, each: dict[str, Any]) -> Iterator[object]:
        yield what.get(tool, f"`{tool}`")
        yield f"{each['named']} of {found['plants']}"
        yield each["others_named"]
        ratio = bert["time_ratio"].get(tool)
        yield "an export" if ratio is None else f"{ratio:.2f}"

    head = ("tool", "named", "others beside", "over a pass of BERT-base")
    yield from table(head, (list(row(*each)) for each in found["tools"].items()))


def bisecting() -> Iterator[str]:
    """Finding it on an engine"""
    found = read("bisect_peers")
    yield from prose(
        f"""{found["files"]} ONNX files with one fault each, strictly run; builds are counted at the
        engine (`{found["command"]}`):"""
    )

    def row(tool: str, each: dict[str, Any]) -> Sequence[object]:
        if any("No module named 'tensorrt'" in error for error in each["errors"]):
            return f"`{tool}`", "needs TensorRT", "", "", ""
        name = f"{tool}, by a script" if " after " in tool else f"`{tool}`"
        return name, each["exact"], each["among_others"], each["builds"], number(each["seconds"])

    head = ("tool", "names the operator alone", "among others", "builds", "seconds")
    yield from table(head, (row(*each) for each in found["summary"].items()))


def by_hand() -> Iterator[str]:
    """By hand"""
    found = read("hand_tools")
    yield from prose(
        f"""A PAN text detector that overflows as deployed ones do, in PyTorch's half kernels
        (`{found["command"]}`). [One layer by hand](hand-tools.md) has the ways:"""
    )

    def row(way: str, each: dict[str, Any]) -> Iterator[object]:
        yield f"`{way}`" if way == "halfsafe.fix" else way
        yield f"{each['nonfinite_in_float16']:,}"
        yield "" if each["error_over_floor"] is None else f"{each['error_over_floor']:.2f}"
        yield each["operators_added"]

    head = ("", "nonfinite values", "error over the floor", "operators run in addition")
    yield from table(head, (list(row(*each)) for each in found["pan"]["ways"].items()))


def not_ours() -> Iterator[str]:
    """What they do and halfsafe does not"""
    yield from chain.from_iterable(prose(text, bullet=True) for text in NOT_OURS)


SECTIONS: tuple[Callable[[], Iterator[str]], ...] = (
    architectures, trained, sizes, directories, localising, bisecting, by_hand, not_ours,
)  # fmt: skip


def page() -> str:
    lines = ["# Beside other tools", "", *prose(ABOUT)]
    for section in SECTIONS:
        lines += [f"## {section.__doc__}", "", *section()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
