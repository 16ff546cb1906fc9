"""Capturing leaves the process as it was, and its other threads alone."""

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.proxy import TracerBase
from torch.utils import _pytree as pytree

import halfsafe
from halfsafe.frontends.torch.capture import capture
from halfsafe.frontends.torch.program import same_draws
from halfsafe.frontends.torch.quiet import exporting
from halfsafe.samples import Call
from tests.replicas import Net, scaled

X = torch.linspace(-1, 1, 32).reshape(4, 8)


@dataclass
class Scored:
    """Known to nobody but this file."""

    score: Tensor
    rest: Any = None


class Hooked(nn.Module):
    """Calls something in the middle of being exported."""

    def __init__(self, hook: Callable[[], object], *, fails: bool = False) -> None:
        super().__init__()
        self.fc = scaled(nn.Linear(8, 8), 1e6)
        self.hook, self.fails = hook, fails

    def forward(self, x: Tensor) -> Scored:
        h = self.fc(x)
        if torch.compiler.is_exporting():
            self.hook()
        if self.fails and h.sum() > 0:
            h = -h
        return Scored(h.softmax(-1), [Scored(h.sigmoid())])


def captured(model: nn.Module) -> Any:
    return capture(model.eval(), Call((X,), {}))


def tables() -> list[dict[Any, Any]]:
    """What pytree knows."""
    return [
        pytree.SUPPORTED_NODES,
        pytree.SUPPORTED_SERIALIZED_TYPES,
        pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE,
    ]


def filtered() -> dict[str, list[Any]]:
    """The filters of all loggers and handlers."""
    logs = [log for log in logging.root.manager.loggerDict.values() if hasattr(log, "handlers")]
    places = [place for log in logs for place in (log, *log.handlers)]
    return {str(place): list(place.filters) for place in places if place.filters}


def state() -> list[Any]:
    """The very objects that a capture could have put others in place of, and what they hold."""
    import torch.export._trace
    import torch.fx.graph_module

    return [
        id(vars(TracerBase)["_filter_traceback_frames"]),
        [(id(table), list(table.items())) for table in tables()],
        logging.root.manager.disable,
        filtered(),
        (id(warnings.filters), list(warnings.filters), id(warnings.showwarning)),
        (id(sys.stderr), id(sys.stdout)),
        ["print" in vars(m) for m in (torch.export._trace, torch.fx.graph_module)],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]


@contextmanager
def everything_as_before() -> Iterator[None]:
    before = state()
    yield
    assert state() == before


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    """What is imported when it is first needed, and has filters of its own."""
    halfsafe.fix(Hooked(lambda: None).eval(), X)


# Afterwards


def test_a_capture_leaves_everything_as_it_was():
    model = Hooked(lambda: None)
    with everything_as_before():
        captured(model)


def test_a_capture_that_fails_leaves_everything_as_it_was():
    model = Hooked(lambda: None, fails=True)
    with everything_as_before(), pytest.raises(halfsafe.CaptureError, match=r"test_quiet\.py"):
        captured(model)


def test_a_whole_fix_leaves_everything_as_it_was(tmp_path):
    model = Net(lambda m, x: m.fc(x).sigmoid(), fc=scaled(nn.Linear(8, 8), 1e6)).eval()
    with everything_as_before():
        halfsafe.fix(model, X).save(tmp_path / "fixed.pt2")


def test_what_others_put_there_meanwhile_stays():
    def someone_else() -> None:
        logging.getLogger("torch._export").addFilter(late)
        warnings.filterwarnings("ignore", "late")

    late = logging.Filter("late")
    before = list(warnings.filters)
    captured(Hooked(lambda: run_aside(someone_else)))
    mine = [rule for rule in warnings.filters if rule not in before]
    try:
        assert [rule[1].pattern for rule in mine] == ["late"]
        assert logging.getLogger("torch._export").filters == [late]
    finally:
        logging.getLogger("torch._export").removeFilter(late)


# Dataclasses


def test_dataclasses_are_looked_into_though_nobody_knows_them():
    model = Hooked(lambda: None).eval()
    with everything_as_before():
        fixed = halfsafe.fix(model, X)
        found, expected = fixed.model(X), model(X)
        half = fixed.half()(X)
    assert type(found) is type(half) is Scored
    assert type(found.rest[0]) is Scored and found.rest[0].rest is None
    assert torch.equal(found.rest[0].score, expected.rest[0].score)
    assert fixed.report.verification.bit_equal
    assert len(fixed.report.verification.findings) == 2
    assert halfsafe.verify(model, fixed.half(), X).safe


def test_a_file_cannot_hold_a_dataclass_that_nobody_knows(tmp_path):
    fixed = halfsafe.fix(Hooked(lambda: None).eval(), X)
    with pytest.raises(halfsafe.BadInput, match=r"register_dataclass\(Scored"):
        fixed.save(tmp_path / "fixed.pt2")


# Meanwhile


def run_aside(function: Callable[[], Any]) -> Any:
    """What another thread gives."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_another_thread_is_heard_during_a_capture(capsys, caplog, recwarn):
    def loud(name: str) -> None:
        logging.getLogger("mine").error("%s logs", name)
        logging.getLogger("torch.fx.experimental.symbolic_shapes").error("%s logs as torch", name)
        warnings.warn(f"{name} warns", UserWarning, stacklevel=1)
        print(f"{name} prints", file=sys.stderr)

    torch_log = logging.getLogger("torch")
    torch_log.addHandler(caplog.handler)
    try:
        captured(Hooked(lambda: (loud("here"), run_aside(lambda: loud("there")))))
    finally:
        torch_log.removeHandler(caplog.handler)
    said = [record.message for record in caplog.records]
    assert "there logs" in said and "there logs as torch" in said
    assert "here logs as torch" not in said
    assert {str(w.message) for w in recwarn} == {"there warns"}
    assert "there prints" in capsys.readouterr().err


def test_a_failing_capture_prints_nothing_of_its_own(capfd, caplog, recwarn):
    with pytest.raises(halfsafe.CaptureError):
        captured(Hooked(lambda: None, fails=True))
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert not caplog.records
    assert not recwarn.list


def test_warnings_of_a_capture_are_no_errors_where_all_others_are():
    def warned() -> None:
        warnings.warn("on the way", UserWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured(Hooked(warned))
        with pytest.raises(UserWarning):
            warned()


def test_another_threads_graphs_fail_as_loudly_as_ever(capsys):
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x

    module = torch.fx.symbolic_trace(Squared())

    def failing() -> None:
        with pytest.raises(RuntimeError):
            module(torch.ones(2, 3))

    with exporting():
        failing()
        assert not capsys.readouterr().err
        run_aside(failing)
        assert "Call using an FX-traced Module" in capsys.readouterr().err


def test_another_threads_tracers_remember_what_they_always_do():
    def lines() -> Any:
        tracer = torch.fx.Tracer()
        tracer.record_stack_traces = True
        return [node.stack_trace for node in tracer.trace(Traced()).nodes]

    class Traced(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return outside(x)

    def outside(x: Tensor) -> Tensor:
        return x + 1

    plain = run_aside(lines)
    with exporting():
        assert run_aside(lines) == plain


# At once


def first(m: Any, x: Tensor) -> Tensor:
    return m.fc(x).relu() + torch.rand(8)


def second(m: Any, x: Tensor) -> Tensor:
    return m.fc(x).sigmoid() - torch.rand(8)


def test_threads_that_capture_at_once_do_not_meet():
    """Each graph has the lines of its own model, and the numbers that it draws itself."""
    models = [Net(way, fc=nn.Linear(8, 8)) for way in (first, second) * 3]
    start = threading.Barrier(len(models))

    def one(model: nn.Module) -> Any:
        start.wait()
        return captured(model)

    with everything_as_before(), ThreadPoolExecutor(len(models)) as pool:
        made = list(pool.map(one, models))
    for found, way in zip(made, (first, second) * 3, strict=True):
        own = f"{__file__}:{way.__code__.co_firstlineno + 1}"
        assert {node.line for node in found.program.graph.nodes} == {own}
        assert found.difference == 0


def test_random_numbers_of_two_threads_do_not_mix():
    """One generator serves the whole process: one would draw on where the other has come to."""

    def drawn(seconds: float) -> Tensor:
        with same_draws():
            time.sleep(seconds)
            return torch.rand(8)

    with everything_as_before(), ThreadPoolExecutor(2) as pool:
        one, other = pool.map(drawn, [0.1, 0.2])
    assert torch.equal(one, other)
