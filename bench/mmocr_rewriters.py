"""The rewriters of halfsafe and of mmdeploy side by side: scope, restoring, threads, speed.

Part of ``make mmocr``, whose environment has mmdeploy.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import halfsafe

BACKEND = "tensorrt"

Found = dict[str, Any]
Body = Callable[..., Any]
"""A rewrite, called with the original first."""
Context = Callable[[], AbstractContextManager[Any]]
Tool = Callable[[Mapping[str, Body]], Context]
"""Registers rewrites by name, and gives what opens a context in which they hold."""


def compare(rewrites: Mapping[str, Body], maps: Callable[[], Tensor]) -> Found:
    """Both tools on the rewrites of a model that gives maps, and on small classes of our own."""
    return {
        "maps_equal": {name: maps_equal(tool, rewrites, maps) for name, tool in TOOLS.items()},
        "seen": {name: scope(tool) for name, tool in TOOLS.items()},
        "siblings_left_alone": {name: siblings(tool) for name, tool in TOOLS.items()},
        "restored": {name: restores(tool) for name, tool in TOOLS.items()},
        **speed(rewrites),
    }


def maps_equal(tool: Tool, rewrites: Mapping[str, Body], maps: Callable[[], Tensor]) -> bool:
    plain = maps()
    with tool(rewrites)():
        return torch.equal(maps(), plain)


def by_halfsafe(bodies: Mapping[str, Body], backend: str = BACKEND) -> Context:
    for name, body in bodies.items():
        halfsafe.rewrites(name, backend=backend)(body)
    return lambda: halfsafe.rewriting(backend, names=tuple(bodies))


def by_mmdeploy(bodies: Mapping[str, Body]) -> Context:
    """With a manager that holds nothing else; who wants the original asks it for the context."""
    from mmdeploy.core.rewriters.rewriter_manager import RewriterContext, RewriterManager

    manager = RewriterManager()
    rewriter = manager.function_rewriter

    def adapted(name: str, body: Body) -> Body:
        def original(*args: Any) -> Any:
            return rewriter.get_context(name).origin_func(*args)

        def rewrite(*args: Any) -> Any:
            return body(original, *args)

        return rewrite

    for name, body in bodies.items():
        rewriter.register_rewriter(name, backend=BACKEND)(adapted(name, body))
    return lambda: RewriterContext({}, BACKEND, rewriter_manager=manager)


TOOLS: dict[str, Tool] = {
    "halfsafe": partial(by_halfsafe, backend="probe"),
    "mmdeploy": by_mmdeploy,
}

LENDER = """
def function(x="original"):
    return x

class Base:
    def method(self):
        return "original"

    @staticmethod
    def static():
        return "original"

    @classmethod
    def made(cls):
        return "original"

class Child(Base):
    pass
"""

BORROWER = """
from mmocr_lender import function

KEPT = [function]
FIXED = (function,)

def later(call=function):
    return call()
"""


def lend() -> tuple[Any, Any]:
    """New modules: one with functions and classes, and one that has taken a function from it."""
    modules = ModuleType("mmocr_lender"), ModuleType("mmocr_borrower")
    for module, source in zip(modules, (LENDER, BORROWER), strict=True):
        sys.modules[module.__name__] = module
        exec(source, vars(module))
    return modules


def replaced(*_: Any) -> str:
    return "replaced"


def in_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def scope(tool: Tool) -> dict[str, bool]:
    """Where a rewrite is seen while its context is open in this thread."""
    lender, borrower = lend()
    instance, holds = lender.Base(), lambda call: call() == "replaced"
    with tool({"mmocr_lender.function": replaced, "mmocr_lender.Base.method": replaced})():
        return {
            "function by its own name": holds(lender.function),
            "function that another module imported by name": holds(borrower.function),
            "function in a list": holds(borrower.KEPT[0]),
            "function in a tuple": holds(borrower.FIXED[0]),
            "function as a default argument": holds(borrower.later),
            "method of an object made before": holds(instance.method),
            "method that a class inherits": holds(lender.Child().method),
            "another thread": in_thread(lambda: holds(instance.method)),
        }


def siblings(tool: Tool) -> bool:
    """Whether a rewrite of an inherited method leaves the class that it comes from alone."""
    lender, _ = lend()
    with tool({"mmocr_lender.Child.method": replaced})():
        return (lender.Child().method(), lender.Base().method()) == ("replaced", "original")


def failing(context: Context) -> None:
    with suppress(KeyError), context():
        raise KeyError


def nested(context: Context) -> None:
    with context(), context():
        pass


def overlapping(context: Context) -> None:
    """One thread enters, another enters, the first leaves, the other leaves."""
    entered, left_again = threading.Event(), threading.Event()

    def first() -> None:
        with context():
            entered.set()
            left_again.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with context():
        left_again.set()
        thread.join()


def restores(tool: Tool) -> dict[str, dict[str, str]]:
    """What is left behind where a rewrite was, by kind of place and by use of the context."""
    found: dict[str, dict[str, str]] = {}
    for use in (failing, nested, overlapping):
        row = found.setdefault(use.__name__, {})
        for place in ("function", "Base.method", "Base.static", "Base.made", "Child.method"):
            lender, borrower = lend()
            *above, name = place.split(".")
            owner = getattr(lender, above[0]) if above else lender
            before, borrowed = vars(owner).get(name), borrower.function
            use(tool({f"mmocr_lender.{place}": replaced}))
            same = vars(owner).get(name) is before and borrower.function is borrowed
            row[place] = (
                "the same object" if same else behaviour(owner() if above else lender, name)
            )
    return found


def behaviour(owner: Any, name: str) -> str:
    """Of an attribute that is not what it was."""
    try:
        answer = getattr(owner, name)()
    except TypeError as error:
        return f"another object, which fails: {error}"
    return "still rewritten" if answer == "replaced" else "another object, which works"


def per_call(seconds: Callable[[], Any], times: int, rounds: int = 7) -> float:
    """Seconds of one call: the median of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(times):
            seconds()
        taken.append((time.perf_counter() - start) / times)
    return statistics.median(taken)


def crossing(context: Context, times: int = 20) -> float:
    """Seconds to open and leave a context."""

    def cross() -> None:
        with context():
            pass

    return per_call(cross, times)


def pass_on(original: Body, *args: Any) -> Any:
    return original(*args)


ASKED = SimpleNamespace(rewriter=None)
"""mmdeploy's rewriter in use."""


def by_name(x: str = "original") -> str:
    return ASKED.rewriter.get_context("mmocr_lender.function").origin_func(x)


def as_documented(x: str = "original") -> str:
    """Without a name the context is found by the frame that asks."""
    return ASKED.rewriter.get_context().origin_func(x)


def asking(rewrite: Body) -> Context:
    """A context of mmdeploy whose rewrite is called as it is."""
    from mmdeploy.core.rewriters.rewriter_manager import RewriterContext, RewriterManager

    manager = RewriterManager()
    ASKED.rewriter = manager.function_rewriter
    ASKED.rewriter.register_rewriter("mmocr_lender.function", backend=BACKEND)(rewrite)
    return lambda: RewriterContext({}, BACKEND, rewriter_manager=manager)


def calls() -> dict[str, float]:
    """Microseconds of a call of a Python function, as it is and passed on by a rewrite."""
    lender, _ = lend()
    found = {"not rewritten": per_call(lender.function, 20_000)}
    ours = TOOLS["halfsafe"]({"mmocr_lender.function": pass_on})
    for name, open_context, times in (
        ("halfsafe", lambda: ours, 20_000),
        ("mmdeploy, asking by name", lambda: asking(by_name), 20_000),
        ("mmdeploy, as documented", lambda: asking(as_documented), 100),
    ):
        with open_context()():
            assert lender.function() == "original"
            found[name] = per_call(lender.function, times)
    return {name: round(1e6 * seconds, 3) for name, seconds in found.items()}


def stock() -> tuple[Context, int]:
    """mmdeploy's context with all that it registers by itself for the backend, and how many."""
    from mmdeploy.core import FUNCTION_REWRITER, RewriterContext

    records = FUNCTION_REWRITER._registry.get_records(RewriterContext({}, BACKEND)._env)
    return (lambda: RewriterContext({}, BACKEND)), len(records)


def speed(rewrites: Mapping[str, Body]) -> Found:
    """Milliseconds to open and leave a context, and what a call costs, all in one run."""
    lend()
    one = {"mmocr_lender.function": pass_on}
    everything, records = stock()
    contexts = {
        "halfsafe, the two methods": TOOLS["halfsafe"](rewrites),
        "mmdeploy, the two methods": by_mmdeploy(rewrites),
        "halfsafe, one function": TOOLS["halfsafe"](one),
        "mmdeploy, one function": by_mmdeploy(one),
    }
    taken = {name: crossing(context) for name, context in contexts.items()}
    taken[f"mmdeploy, its own {records} rewrites"] = crossing(everything, times=1)
    cost = in_thread(calls)  # the frames below `python -m` make reading the stack slower yet
    return {
        "milliseconds": {name: round(1e3 * seconds, 4) for name, seconds in taken.items()},
        "mmdeploy_over_halfsafe": {
            kind: round(taken[f"mmdeploy, {kind}"] / taken[f"halfsafe, {kind}"], 1)
            for kind in ("the two methods", "one function")
        },
        "microseconds_per_call": cost,
        "call_over_plain": {k: round(v / cost["not rewritten"], 1) for k, v in cost.items()},
    }
