"""Rewriting by name: only who entered sees it, the backend decides, everything is put back."""

import asyncio
import contextvars
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfsafe import BadInput
from halfsafe.manual import rewrites as rewriter
from halfsafe.manual.rewrites import rewrites, rewriting

HERE = __name__


class Base:
    """Calls of all kinds, each saying who it is."""

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def run(self, x: str = "") -> str:
        """Runs."""
        return f"base({x})" if self.inner is None else f"base({self.inner.run(x)})"

    def other(self) -> str:
        return "base other"

    @classmethod
    def make(cls, x: str) -> str:
        return f"{cls.__name__}.make({x})"

    @staticmethod
    def stated(x: str) -> str:
        return f"stated({x})"

    @property
    def size(self) -> int:
        return getattr(self, "_size", 1)

    @size.setter
    def size(self, value: int) -> None:
        self._size = value

    class Nested:
        def run(self) -> str:
            return "nested"

    constant = 3
    builtin = abs


class Child(Base):
    """Inherits all of it."""


class Sibling(Base):
    """Inherits all of it as well."""


class Overriding(Child):
    def run(self, x: str = "") -> str:
        return f"overriding({x})"


class Calling(Child):
    def run(self, x: str = "") -> str:
        return f"calling({super().run(x)})"


class Aside(Base):
    def run(self, x: str = "") -> str:
        return f"aside({x})"


class Diamond(Child, Aside):
    """Finds `run` in Aside, although Child by itself finds it in Base."""


def function(x: str, *, loud: bool = False) -> str:
    return x.upper() if loud else x


class Block(nn.Module):
    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x if self.inner is None else self.inner(x))


class LateBlock(Block):
    """Inherits forward."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(LateBlock()), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.body(x))


CLASSES = (Base, Child, Sibling, Overriding, Calling, Aside, Diamond, Base.Nested, Block, LateBlock)


def held() -> list[tuple[str, Any]]:
    """Every attribute of the classes in its order, and the functions that are rewritten here."""
    everything = [(name, value) for place in CLASSES for name, value in vars(place).items()]
    return [*everything, *((f.__name__, f) for f in (function, torch.relu, F.silu))]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = held()
    yield
    assert held() == before
    assert not rewriter._places
    assert not rewriter._open
    assert rewriter._entered.get() == ()


def tagged(name: str, tag: str, backend: str = "default") -> None:
    """A rewrite that shows that it ran, and runs the original."""

    @rewrites(f"{HERE}.{name}", backend=backend)
    def _(original: Any, *args: Any, **kwargs: Any) -> Any:
        return f"{tag}[{original(*args, **kwargs)}]"


# what can be replaced


def test_the_decorated_function_stays_what_it_was():
    def rewrite(original: Any, x: str) -> str:
        return f"new {original(x)}"

    assert rewrites(f"{HERE}.function")(rewrite) is rewrite
    assert rewrite(str.title, "ann") == "new Ann"


def test_a_function_is_replaced_within_the_context_only():
    tagged("function", "new")
    with rewriting():
        assert function("a", loud=True) == "new[A]"
    assert function("a") == "a"


def test_a_method_is_replaced_for_objects_old_and_new():
    old = Base()
    tagged("Base.run", "new")
    with rewriting():
        assert (old.run("x"), Base().run("x"), Base.run(old, "x")) == ("new[base(x)]",) * 3
    assert old.run("x") == "base(x)"


def test_class_methods_static_methods_properties_and_nested_classes_are_replaced():
    tagged("Base.make", "c")
    tagged("Base.stated", "s")
    tagged("Base.Nested.run", "n")
    rewrites(f"{HERE}.Base.size")(lambda original, self: original(self) + 10)
    thing = Child()
    with rewriting():
        assert (Base.make("x"), Child.make("x")) == ("c[Base.make(x)]", "c[Child.make(x)]")
        assert (thing.make("x"), thing.stated("x")) == ("c[Child.make(x)]", "s[stated(x)]")
        assert Base.stated("x") == "s[stated(x)]"
        assert Base.Nested().run() == "n[nested]"
        thing.size = 4
        assert thing.size == 14
    assert thing.size == 4


def test_builtin_functions_are_replaced_in_modules_and_in_classes():
    tagged("Base.builtin", "b")
    rewrites("torch.relu")(lambda original, x: -original(x))
    with rewriting():
        assert Base().builtin(-3) == Base.builtin(-3) == "b[3]"
        assert torch.relu(torch.ones(())) == -1


def test_the_methods_of_a_class_replace_those_of_the_same_name():
    @rewrites(f"{HERE}.Base")
    class New:
        constant = 5

        def __init__(self) -> None:
            raise AssertionError("nobody makes one of these")

        def __new__(cls) -> Any:
            raise AssertionError("nobody makes one of these")

        def run(self, x: str = "") -> str:
            return f"new {self.other()}({x}) {self.constant}"

        def __repr__(self) -> str:
            return "shown"

        @classmethod
        def make(cls, x: str) -> str:
            return f"new {cls.__name__}"

        @staticmethod
        def stated(x: str) -> str:
            return "new stated"

        @property
        def size(self) -> int:
            return 7

    old = Base()
    with rewriting() as applied:
        assert applied == {f"{HERE}.Base": "default"}
        for thing in old, Base():
            assert thing.run("x") == "new base other(x) 3"
            assert repr(thing) == "shown"
            assert (thing.make("x"), thing.stated("x"), thing.size) == ("new Base", "new stated", 7)
    assert (old.run("x"), old.size) == ("base(x)", 1)
    assert repr(old).startswith("<")


def test_a_block_within_a_block_is_rewritten_too():
    tagged("Base.run", "new")
    with rewriting():
        assert Base(Base()).run("x") == "new[base(new[base(x)])]"


def test_an_inherited_method_is_replaced_in_the_named_class_only():
    tagged("Child.run", "new")
    with rewriting():
        assert Child().run("x") == "new[base(x)]"
        assert Calling().run("x") == "calling(new[base(x)])"
        assert Overriding().run("x") == "overriding(x)"
        assert Base().run("x") == Sibling().run("x") == "base(x)"
    assert "run" not in vars(Child)


def test_inherited_members_of_all_kinds_are_replaced_and_removed_again():
    tagged("Child.make", "c")
    tagged("Child.stated", "s")
    rewrites(f"{HERE}.Child.size")(lambda original, self: original(self) + 10)
    with rewriting():
        assert (Child.make("x"), Child.stated("x")) == ("c[Child.make(x)]", "s[stated(x)]")
        assert (Child().size, Base().size) == (11, 1)
        assert Base.make("x") == "Base.make(x)"
        with rewriting("none", names=()):
            assert (Child.make("x"), Child.stated("x")) == ("Child.make(x)", "stated(x)")
            assert (Overriding.make("x"), Child().size) == ("Overriding.make(x)", 1)


def test_where_a_name_is_inherited_others_find_what_they_would_find_without_the_rewrite():
    tagged("Child.run", "child")
    tagged("Base.run", "base", "b")
    with rewriting(), rewriting("b", names=f"{HERE}.Base.run"):
        assert Child().run("x") == "base[base(x)]"
        assert Diamond().run("x") == "aside(x)"
        assert Child.run(self=Child(), x="x") == "base(x)"
    with rewriting():
        assert Diamond().run("x") == "child[base(x)]"


def test_the_original_of_an_inherited_method_is_the_raw_one_in_any_order():
    tagged("Child.run", "child")
    tagged("Base.run", "base", "b")
    for order in (("default", "b"), ("b", "default")):
        with ExitStack() as stack:
            for backend in order:
                stack.enter_context(rewriting(backend))
            with rewriting("b"):
                assert (Child().run("x"), Base().run("x")) == ("child[base(x)]", "base[base(x)]")


def test_a_dispatcher_looks_like_the_original():
    tagged("Base.run", "new")
    before = inspect.signature(Base.run)
    with rewriting():
        assert inspect.signature(Base.run) == before
        assert (Base.run.__name__, Base.run.__doc__) == ("run", "Runs.")
        assert Base.run.__qualname__ == "Base.run"


def in_threads(*calls: Callable[[], object]) -> None:
    """Calls all at once, and waits for them."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# which rewrite


def test_the_most_specific_backend_wins_for_each_name():
    tagged("function", "any")
    tagged("function", "trt", "tensorrt")
    tagged("function", "int8", "tensorrt.int8")
    tagged("Base.run", "any")
    tagged("Child.run", "trt", "tensorrt")
    seen = {}
    for backend in ("default", "openvino", "tensorrt", "tensorrt.fp8", "tensorrt.int8.large"):
        with rewriting(backend) as applied:
            seen[backend] = function("x"), Child().run("x")
            assert list(applied) == sorted(applied)
    plain, trt = ("any[x]", "any[base(x)]"), ("trt[x]", "trt[base(x)]")
    assert seen["default"] == seen["openvino"] == plain
    assert seen["tensorrt"] == seen["tensorrt.fp8"] == trt
    assert seen["tensorrt.int8.large"] == ("int8[x]", "trt[base(x)]")
    assert applied == {
        f"{HERE}.Base.run": "default",
        f"{HERE}.Child.run": "tensorrt",
        f"{HERE}.function": "tensorrt.int8",
    }


def test_a_methods_own_name_wins_over_its_class_and_the_backend_over_both():
    class New:
        def run(self, x: str = "") -> str:
            return "class"

    rewrites(f"{HERE}.Base")(New)
    tagged("Base.run", "own")
    with rewriting("tensorrt") as applied:
        assert Base().run("x") == "own[base(x)]"
        assert applied == {f"{HERE}.Base.run": "default"}
    rewrites(f"{HERE}.Base", backend="tensorrt")(New)
    with rewriting("tensorrt") as applied:
        assert Base().run("x") == "class"
        assert applied == {f"{HERE}.Base": "tensorrt"}


def test_a_later_registration_replaces_an_earlier_one():
    tagged("function", "first")
    tagged("function", "second")
    with rewriting():
        assert function("x") == "second[x]"


def test_names_restrict_the_context():
    tagged("function", "f")
    tagged("Base.run", "r")
    with rewriting(names=[f"{HERE}.function"]) as applied:
        assert (function("x"), Base().run("x")) == ("f[x]", "base(x)")
        assert applied == {f"{HERE}.function": "default"}


def test_the_innermost_context_alone_decides():
    tagged("function", "a", "a")
    tagged("function", "b", "b")
    tagged("Base.run", "a", "a")
    with rewriting("a"):
        with rewriting("b"):
            assert (function("x"), Base().run("x")) == ("b[x]", "base(x)")
        assert (function("x"), Base().run("x")) == ("a[x]", "a[base(x)]")
        with rewriting("a"):
            assert function("x") == "a[x]"
        with rewriting("c"):
            assert function("x") == "x"


def test_a_context_is_a_decorator_too():
    tagged("function", "new")

    @rewriting()
    def run() -> str:
        return function("x")

    assert (run(), function("x"), run()) == ("new[x]", "x", "new[x]")


# who sees it, and what is left behind


def test_a_rewrite_that_raises_leaves_nothing_behind():
    @rewrites(f"{HERE}.Child.run")
    def _(original: Any, self: Base, x: str) -> str:
        raise RuntimeError("broken rewrite")

    with pytest.raises(RuntimeError, match="broken rewrite"), rewriting():
        Child().run("x")
    assert Child().run("x") == "base(x)"


def test_contexts_left_in_another_order_than_entered_leave_nothing_behind():
    tagged("function", "a", "a")
    tagged("function", "b", "b")

    def steps(backend: str) -> Iterator[str]:
        with rewriting(backend):
            while True:
                yield function("x")

    first, second = steps("a"), steps("b")
    assert (next(first), next(second)) == ("a[x]", "b[x]")
    first.close()
    assert function("x") == "b[x]"
    second.close()
    assert function("x") == "x"


def test_a_context_closed_in_another_thread_ends_everywhere():
    tagged("function", "outer")
    tagged("function", "inner", "inner")

    def steps() -> Iterator[str]:
        with rewriting("inner"):
            yield function("x")

    with rewriting():
        steps_here = steps()
        assert next(steps_here) == "inner[x]"
        in_threads(steps_here.close)
        assert function("x") == "outer[x]"
    assert function("x") == "x"


def test_other_threads_see_the_original_meanwhile():
    tagged("Base.run", "new")
    thing, seen = Base(), []
    with rewriting():
        in_threads(lambda: seen.append(thing.run("x")))
        assert thing.run("x") == "new[base(x)]"
        context = contextvars.copy_context()
    assert seen == ["base(x)"]
    assert context.run(thing.run, "x") == "base(x)"


def test_a_thread_keeps_its_rewrite_when_another_leaves():
    tagged("Base.run", "new")
    entered, left, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with rewriting():
            entered.set()
            assert left.wait(10)
            seen.append(Base().run("x"))

    thread = threading.Thread(target=other)
    with rewriting():
        thread.start()
        assert entered.wait(10)
    assert Base().run("x") == "base(x)"
    left.set()
    thread.join()
    assert seen == ["new[base(x)]"]


@contextmanager
def switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_threads_that_enter_and_leave_all_the_time_restore_everything():
    tagged("Base.run", "new")
    tagged("Child.run", "child")
    barrier, wrong = threading.Barrier(8, timeout=20), []

    def work() -> None:
        for _ in range(20):
            barrier.wait()
            for _ in range(20):
                with rewriting():
                    wrong.extend({Child().run("x")} - {"child[base(x)]"})
                wrong.extend({Child().run("x")} - {"base(x)"})

    with switching_often():
        in_threads(*[work] * 8)
    assert not wrong


def test_eight_threads_run_one_model_each_with_its_own_rewrites():
    model, x = Block(LateBlock()).eval(), torch.tensor([-2.0, 3.0])
    factors = {"default": 2, "a": 3, "b": 5}
    for backend, factor in factors.items():
        for name in "Block.forward", "LateBlock.forward":
            rewrites(f"{HERE}.{name}", backend=backend)(
                lambda original, self, x, factor=factor: original(self, x) * factor
            )
    barrier, wrong = threading.Barrier(8, timeout=20), []

    def check(factor: int) -> None:
        found = model(x).tolist()
        if found != [0.0, 3.0 * factor * factor]:
            wrong.append((factor, found))

    def work(number: int) -> None:
        backend = ("default", "a", "b", None)[number % 4]
        barrier.wait()
        for turn in range(150):
            if backend is None:
                check(1)
                continue
            with rewriting(backend):
                check(factors[backend])
                if turn % 3 == 0:
                    with rewriting("a"):
                        check(factors["a"])
                    check(factors[backend])
            check(1)

    with switching_often():
        in_threads(*(partial(work, number) for number in range(8)))
    assert not wrong
    check(1)


def test_asyncio_tasks_have_their_own_rewrites():
    tagged("function", "a", "a")
    tagged("function", "b", "b")

    async def enter(backend: str) -> list[str]:
        with rewriting(backend):
            found = []
            for _ in range(5):
                await asyncio.sleep(0)
                found.append(function("x"))
        return [*found, function("x")]

    async def child() -> str:
        return function("x")

    async def everyone() -> list[Any]:
        tasks = [asyncio.create_task(enter(b)) for b in ("a", "b", "none")]
        found = [await task for task in tasks]
        with rewriting("a"):
            inside = asyncio.create_task(child())
            thread = asyncio.create_task(asyncio.to_thread(function, "x"))
            await asyncio.wait([inside, thread])
            late = asyncio.create_task(child())
        return [*found, inside.result(), thread.result(), await late]

    a, b, none, inside, thread, late = asyncio.run(everyone())
    assert a == ["a[x]"] * 5 + ["x"]
    assert b == ["b[x]"] * 5 + ["x"]
    assert none == ["x"] * 6
    assert (inside, thread, late) == ("a[x]", "a[x]", "x")


# names that do not exist, and things that cannot be replaced


def refused(name: str, rewrite: Any = lambda original, *args: None, **options: Any) -> str:
    rewrites(name)(rewrite)
    with pytest.raises(BadInput) as caught, rewriting(**options):
        raise AssertionError("entered")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["Bas.run", "Base.rum", "functiom", "Base.Nestet.run", "Base.Nested.rum", "constant.run"],
)
def test_a_name_that_does_not_exist_is_an_error_with_a_hint(name):
    where, _, missing = name.rpartition(".")
    message = refused(f"{HERE}.{name}")
    assert "has no attribute" in message
    if missing != "run":
        near = {"rum": "run", "functiom": "function"}[missing]
        assert message == (
            f"{'.'.join(filter(None, (HERE, where)))!r} has no attribute {missing!r}"
            f" (did you mean {near!r}?)"
        )


def test_a_hint_is_not_made_up():
    assert refused(f"{HERE}.qqqqq") == f"{HERE!r} has no attribute 'qqqqq'; see dir({HERE})"


@pytest.mark.parametrize("later", ["Base.nothing", "Base.constant"])
def test_entering_that_fails_half_way_restores_what_was_done(later):
    tagged("Aside.run", "new")
    tagged("Child.run", "new")
    tagged("function", "new")
    assert HERE in refused(f"{HERE}.{later}")
    assert (Child().run("x"), function("x")) == ("base(x)", "x")


def test_a_class_that_refuses_to_be_changed_leaves_nothing_behind():
    tagged("Aside.run", "new")
    assert "'builtins.str.upper' cannot be replaced: TypeError" in refused("builtins.str.upper")
    assert Aside().run("x") == "aside(x)"


def test_what_is_not_installed_is_left_out():
    tagged("function", "new")
    rewrites("not_there_at_all.mod.Class.forward")(lambda original, self: None)
    with rewriting() as applied:
        assert list(applied) == [f"{HERE}.function"]


def test_what_is_not_installed_is_an_error_if_asked_for():
    name = "not_there_at_all.mod.Class.forward"
    assert refused(name, names=[name]) == (
        f"{name!r} cannot be rewritten: no module named 'not_there_at_all'; install it"
    )


def test_a_name_that_is_not_registered_is_an_error_if_asked_for():
    tagged("function", "new", "tensorrt")
    with pytest.raises(BadInput, match=r"has no rewrite for backend 'default'; register one"):
        rewriting(names=[f"{HERE}.function"]).__enter__()
    with pytest.raises(BadInput, match=rf"did you mean '{HERE}.function'"):
        rewriting("tensorrt", names=[f"{HERE}.functions"]).__enter__()


def test_registering_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "registered_only.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    rewrites("registered_only.f", backend="other")(lambda original: None)
    with rewriting():
        assert "registered_only" not in sys.modules
    with pytest.raises(BadInput, match="'registered_only' cannot be imported: RuntimeError: imp"):
        rewriting("other").__enter__()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on disk, forgotten afterwards."""
    folder = tmp_path / "some_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_module_that_misses_another_one_is_an_error_that_names_both(package):
    (package / "mod.py").write_text("import not_there_at_all")
    message = refused("some_package.mod.Class.run")
    assert message.startswith("'some_package.mod' cannot be imported: ModuleNotFoundError")
    assert "not_there_at_all" in message


def test_a_module_that_an_installed_package_has_not_is_an_error(package):
    (package / "mod.py").touch()
    (package / "__init__.py").write_text("from some_package import mod")
    message = refused("some_package.mop.f")
    assert message == "'some_package' has no attribute 'mop' (did you mean 'mod'?)"


def test_a_part_of_a_namespace_package_that_is_not_installed_is_left_out(package):
    (package / "__init__.py").unlink()
    rewrites("some_package.extra.f")(lambda original: None)
    with rewriting() as applied:
        assert applied == {}


def test_a_class_named_like_its_module_is_found(package):
    (package / "Thing.py").write_text("class Thing:\n def run(self): return 'run'\ndef f(): ...")
    (package / "__init__.py").write_text("from some_package.Thing import Thing")
    for name in "some_package.Thing.run", "some_package.Thing.f", "some_package.Thing.Thing.run":
        rewrites(name)(lambda original, *args: "new")
        with rewriting(names=name) as applied:
            assert list(applied) == [name]
            thing = importlib.import_module("some_package").Thing()
            assert thing.run() == ("run" if name.endswith("f") else "new")


def test_two_names_of_one_place_are_one_rewrite(package):
    (package / "__init__.py").write_text("from some_package.mod import Thing")
    (package / "mod.py").write_text("class Thing:\n def run(self): return 'run'")
    for name in "some_package.Thing.run", "some_package.mod.Thing.run":
        rewrites(name)(lambda original, self, name=name: name + original(self))
    with rewriting() as applied:
        assert applied == {"some_package.mod.Thing.run": "default"}
        thing = importlib.import_module("some_package").Thing()
        assert thing.run() == "some_package.mod.Thing.runrun"


def test_a_name_that_a_module_makes_when_asked_is_removed_again(monkeypatch):
    module = ModuleType("lazy_module")
    module.__getattr__ = lambda name: {"f": lambda: "lazy"}[name]  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_module", module)
    rewrites("lazy_module.f")(lambda original: f"new {original()}")
    before = dict(vars(module))
    with rewriting(), rewriting():
        assert module.f() == "new lazy"
    assert vars(module) == before
    assert "cannot be read: KeyError: 'g'" in refused("lazy_module.g")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Base.constant", "is a int, not a function, a method or a plain property"),
        ("CLASSES", "is a tuple, not"),
        ("Base", "is a class, and its rewrite is none; name one of its methods"),
        ("CLASSES.run", "is a tuple; name a place in a module or class"),
    ],
)
def test_what_is_no_function_is_refused(name, said):
    assert said in refused(f"{HERE}.{name}")


def test_a_class_does_not_replace_a_function():
    assert "is no class, and its rewrite is one" in refused(f"{HERE}.function", Base)


def test_a_method_that_the_class_has_not_is_refused():
    class New:
        def rum(self) -> str:
            return ""

    message = refused(f"{HERE}.Base", New)
    assert message == f"'{HERE}.Base' has no attribute 'rum' (did you mean 'run'?)"


def test_a_method_of_another_kind_is_refused():
    class New:
        @staticmethod
        def run(x: str) -> str:
            return x

    assert "is a function, and its rewrite a staticmethod" in refused(f"{HERE}.Base", New)


def test_super_within_a_class_is_refused():
    class New(Base):
        def run(self, x: str = "") -> str:
            return super().run(x)

    assert "uses super()" in refused(f"{HERE}.Base", New)


@pytest.mark.parametrize("name", ["function", "a..b", "", "a.b-c", ".a"])
def test_a_name_that_is_not_qualified_is_refused_when_registered(name):
    with pytest.raises(BadInput, match="is no qualified name; write"):
        rewrites(name)


def test_a_backend_without_a_name_and_a_rewrite_that_cannot_be_called_are_refused():
    with pytest.raises(BadInput, match=r"'tensorrt\.' is no backend"):
        rewrites(f"{HERE}.function", backend="tensorrt.")
    with pytest.raises(BadInput, match="is 3; decorate a function or class"):
        rewrites(f"{HERE}.function")(3)


# PyTorch


@pytest.fixture
def net() -> nn.Module:
    """One rewrite of each kind, with an operator of its own: tanh, exp, and sigmoid for silu."""
    rewrites(f"{HERE}.Block.forward")(lambda original, self, x: torch.tanh(original(self, x)))
    rewrites("torch.nn.functional.silu")(lambda original, x, inplace=False: torch.sigmoid(x) * x)

    @rewrites(f"{HERE}.LateBlock")
    class New:
        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(x)

    torch.manual_seed(0)
    return Net().eval()


BEFORE, WITHIN = ["relu", "relu", "linear", "silu"], ["exp", "relu", "tanh", "linear", "sigmoid"]


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_graph_has_the_operators_of_the_rewrites(net, strict):
    def operators() -> list[str]:
        program = torch.export.export(net, (torch.randn(2, 4),), strict=strict)
        calls = (n.target for n in program.graph.nodes if n.op == "call_function")
        return [call.__name__.partition(".")[0] for call in calls]

    assert operators() == BEFORE
    with rewriting():
        assert operators() == [*WITHIN, "mul"]
        with rewriting("none", names=()):
            assert operators() == BEFORE
    assert operators() == BEFORE


def test_a_traced_graph_has_the_operators_of_the_rewrites(net):
    x = torch.randn(2, 4)
    with rewriting():
        traced, expected = torch.jit.trace(net, (x,)), net(x)
    kinds = [n.kind() for n in traced.inlined_graph.nodes() if n.kind().startswith("aten")]
    assert kinds == [f"aten::{name}" for name in (*WITHIN, "mul")]
    assert torch.equal(traced(x), expected)
    assert not torch.equal(net(x), expected)


def test_an_onnx_model_has_the_operators_of_the_rewrites(net):
    def operators() -> set[str]:
        program = torch.onnx.export(net, (torch.randn(2, 4),), dynamo=True, verbose=False)
        return {node.op_type for node in program.model.graph}

    with rewriting():
        within = operators()
    assert within - operators() == {"Exp", "Tanh"}


def test_a_compiled_model_follows_the_contexts(net):
    x = torch.randn(2, 4)
    before = net(x)
    with rewriting():
        compiled, within = torch.compile(net, backend="eager"), net(x)
        assert torch.allclose(compiled(x), within)
        with rewriting("none", names=()):
            assert torch.allclose(compiled(x), before)
        assert torch.allclose(compiled(x), within)
    assert torch.allclose(compiled(x), before)
