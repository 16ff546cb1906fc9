"""The HTML report: one offline file, safe to open, that shows all of a report."""

import json
import re
import shutil
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import inf

import pytest

from halfsafe.bisecting.record import Alone, Shown, Trial
from halfsafe.deviation import Comparison, Deviation
from halfsafe.faults import Fault, FaultKind
from halfsafe.graph import Graph, Kind, Node, Use, Value
from halfsafe.plan import Plan
from halfsafe.ranges import Range
from halfsafe.report.certificate import BoundReport, CertificateReport
from halfsafe.report.data import ValueReport
from halfsafe.report.gather import observed
from halfsafe.report.html import render
from halfsafe.report.reasons import equations_of, faults_of, reasons_of
from halfsafe.report.report import Report
from halfsafe.verdict import Finding, Row, Verification
from tests.test_report import CULPRIT, HALF_WAY, HALVED, LOST, NOT_RUN, SECOND, WITHIN

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"q\" 'a' <!--"
FOUND = Finding(0, "y", 1, 12, Row(0, 1.0, 1.1e-3, 1.0e-3))
LUCKY = replace(FOUND, whole=Row(0, 1.0, 1.1e-3, 0.0))
PROOF = Verification(2, 1, True, 0.0, "strict", (FOUND,), (replace(FOUND, nonfinite=12),))


def measured(top, width=20, more=0):
    """A range from one binade downwards, with `more` entries in each than a plain one."""
    binades = {top - i: more + (4096 >> min(abs(i - 4), 12)) for i in range(width)}
    largest, smallest = 1.5 * 2.0**top, 2.0 ** (top - width + 1)
    return Range(largest, smallest, 7, 0, 7 + sum(binades.values()), binades, 1, 2)


def chain(layers):
    """x -> linear -> relu -> linear -> relu ..."""
    values, nodes, last = [Value("x", Kind.INPUT, True, True, (8, 64))], [], "x"
    for i in range(layers):
        module = f"blocks.{i}.mlp"
        weight, linear, relu = f"{module}.weight", f"linear_{i}", f"relu_{i}"
        values += [Value(weight, Kind.CONSTANT, True, True, (64, 64))]
        values += [Value(v, Kind.ACTIVATION, True, True, (8, 64)) for v in (linear, relu)]
        line = f"/home/someone/net/blocks.py:{i}"
        inputs = {"input": last, "weight": weight}
        nodes.append(Node(linear, "aten.linear", inputs, (linear,), {}, module, line))
        nodes.append(Node(relu, "aten.relu", {"self": linear}, (relu,), {}, f"{module}.act", line))
        last = relu
    return Graph(tuple(nodes), {v.name: v for v in values}, ("x",), (last,))


def chain_report(layers=4, loud=2, tool="inspect", **changes):
    """An inspected chain in which one layer overflows."""
    return replace(measured_chain(layers, loud, tool), **changes)


@cache
def measured_chain(layers, loud, tool, by_name=()):
    graph = chain(layers)
    tops = {"x": 2, f"linear_{loud}": 18, f"relu_{loud}": 18}
    return observed(
        tool=tool,
        model="chain",
        command=f"halfsafe.{tool}(model, samples)",
        samples=2,
        headroom=1,
        graph=graph,
        ranges={v: measured(tops.get(v, 1 + i % 9), more=i) for i, v in enumerate(graph.values)},
        compared={name: dict(by_name).get(name, GOOD) for name in graph.values if by_name},
    )


def fixed_report(layers=4):
    """The same chain, with the loud layer stored at exponent 4, and a Mul behind it."""
    report = chain_report(layers)
    moved = {"linear_2": 4, "relu_2": 4}
    uses = {Use("linear_2", "weight"): 4, Use("relu_2", "self"): 4}
    ranges = {name: value.range for name, value in report.values.items()}
    plan = Plan(moved, uses, (), ())
    reasons = reasons_of(report.graph, ranges, 1, equations_of(report.graph), plan)
    exponents = {**moved, "blocks.2.mlp.weight": 4}
    values = {
        n: replace(v, exponent=exponents.get(n, 0), reason=reasons[n])
        for n, v in report.values.items()
    }
    return replace(
        report,
        tool="fix",
        values=values,
        verification=PROOF,
        folds=("blocks.2.mlp.weight times 2^-4",),
        insertions=("a Mul",),
        command="halfsafe.fix(model, samples)",
    )


def bound_of(bound, status="certified", why=""):
    return BoundReport(status, why, 1.5, bound, "balls", "the value")


def certified_report(**bounds):
    """The same, with a bound for each of its values of 100, or what is given by name."""
    report = fixed_report()
    values = {name: bounds.get(name, bound_of(100.0)) for name in report.values}
    values["mul"] = bound_of(7.0)  # an operator that was inserted
    found = CertificateReport({"x": (8, 64)}, {"x": (-1.0, 1.0)}, values)
    return replace(report, certificate=found)


BISECTED = replace(
    HALVED,
    culprits=(
        replace(
            CULPRIT,
            node="linear_2",
            since="linear_2",
            op="aten.linear",
            module="blocks.2.mlp",
            reads=(Shown("relu_1", 3.0, 3.0, 0, 0, 512, 1e-4),),
            makes=(Shown("linear_2", 3.9e5, 6e4, 500, 0, 512, 1e-3),),
            kept=("linear_2", "relu_2"),
        ),
    ),
    trials=(
        Trial(8, "relu_3", inf, 1, whole=True, limit=0.01),
        Trial(4, "relu_1", 1e-3, 1, limit=0.01),
        Trial(6, "relu_2", 0.5, 1, limit=0.01),
        Trial(5, "linear_2", inf, 1, why="no kernel of this size", limit=0.01),
        Trial(10, "cast_back", 2e-3, 1, whole=True, kept=2, limit=0.01),
    ),
    alone=(Alone("linear_2", "aten.linear", "blocks.2.mlp", inf),),
)


def bisected_report(found=BISECTED):
    """The same chain, bisected to the loud layer."""
    return chain_report(tool="bisect", bisection=found)


GOOD = Comparison(Deviation(1e-6, 1.0, 0, 9), Deviation(1e-6, 1.0, 0, 9))


def compared_report():
    """With FP16 run beside FP32: one value is nonfinite, one finite and wrong."""
    bad = Comparison(Deviation(0.0, 1.0, 5, 9), Deviation(1e-6, 1.0, 0, 9))
    wrong = Comparison(Deviation(1.0, 0.0, 0, 9), Deviation())
    return measured_chain(4, 2, "inspect", (("linear_2", bad), ("relu_3", wrong)))


def block(html):
    """The data block, parsed."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(text)


def test_the_data_block_holds_each_value():
    report = fixed_report()
    data = block(render(report))
    assert sorted(data["names"]) == sorted(report.values)
    for i, name in enumerate(data["names"]):
        lowest, *counts = data["histograms"][data["values"]["histogram"][i]]
        value, known = report.values[name], report.graph.values[name]
        assert {lowest + n: c for n, c in enumerate(counts)} == value.range.binades, name
        assert data["values"]["amax"][i] == value.range.amax, name
        assert data["values"]["exponent"][i] == value.exponent, name
        assert data["texts"][data["values"]["kind"][i]] == known.kind, name


def test_values_stand_in_the_order_of_execution():
    names = block(render(chain_report()))["names"]
    assert names[:5] == ["x", "blocks.0.mlp.weight", "linear_0", "relu_0", "blocks.1.mlp.weight"]


def test_the_equations_are_those_of_the_rules():
    data = block(render(chain_report()))
    laws = [[data["texts"][law] for law in node] for node in data["nodes"]["laws"]]
    assert laws[0] == ["k[linear_0] == k[input] + k[weight]"]
    assert laws[1] == ["k[relu_0] == k[self]"]


def test_an_exponent_is_traced_to_the_value_that_needs_it():
    data = block(render(fixed_report()))
    values, names = data["values"], data["names"]
    linear, weight = names.index("linear_2"), names.index("blocks.2.mlp.weight")
    assert values["low"][linear] == 4
    assert values["driver"][weight] == linear
    tie = data["texts"][values["tie"][weight]]
    assert tie == "k[linear_2] == k[input] + k[weight] of linear_2"


def test_the_page_says_what_the_report_says():
    report = fixed_report()
    html = render(report)
    for text in (
        "Safe in FP16.",
        "bit-equal",
        "1.100",
        "12 nonfinite outputs",
        *report.folds,
        *report.insertions,
        report.command,
        "net/blocks.py:2",
    ):
        assert text in html, text


def test_the_page_says_what_a_bisection_has_found():
    html = render(bisected_report())
    for text in (
        "linear_2 (aten.linear in blocks.2.mlp) is the first operator after which outputs",
        "On onnxruntime (1.26); max_abs at most 0.01.",
        "error 0.001 ahead of it, inf with it, sample 1",
        "3.9e+05",
        "500 inf or NaN of 512",
        "no kernel of this size",
        "error with 2 operators in FP32",
        "A note.",
        "Alone in FP16",
    ):
        assert text in html, text
    assert html.index("Bisection</h2>") < html.index("Faults</h2>")
    assert "Bisection" not in render(chain_report())


def test_the_data_block_holds_the_bound_of_each_value():
    large = bound_of(1.235e6, "measured only", "it may be 1.23e+06")
    report = certified_report(relu_1=LOST, linear_3=large)
    data = block(render(report))
    for i, name in enumerate(data["names"]):
        found = report.certificate.values[name]
        shown = {key: column[i] for key, column in data["values"].items()}
        assert shown["bound"] == found.bound, name
        assert shown["above"] == found.bits, name
        words = [data["texts"][shown[key]] for key in ("status", "by", "lost")]
        assert words == [found.status, found.by, found.why], name
    assert "bound" not in block(render(fixed_report()))["values"]


def test_the_page_says_what_is_certified():
    html = render(certified_report())
    for text in ("Safe for every input of the domain", "x 8x64 in [-1, 1]", "14 of 14 values"):
        assert text in html, text
    html = render(certified_report(relu_1=LOST))
    assert "Safe for every input" not in html
    assert f"1 value without a bound: {LOST.why}" in html
    assert "Certificate" not in render(fixed_report()).partition('id="data"')[0]


def evil_bisection():
    (culprit,) = BISECTED.culprits
    said = {"node": EVIL, "since": EVIL, "op": EVIL, "module": EVIL, "line": EVIL, "reason": EVIL}
    makes = (replace(culprit.makes[0], name=EVIL),)
    return replace(
        BISECTED,
        engine=EVIL,
        version=EVIL,
        metric=EVIL,
        culprits=(replace(culprit, **said, makes=makes, kept=(EVIL,)),),
        trials=tuple(replace(t, node=EVIL, why=EVIL) for t in BISECTED.trials),
        alone=(Alone(EVIL, EVIL, EVIL, inf, EVIL),),
        notes=(EVIL,),
    )


def test_text_from_the_model_is_escaped():
    report = chain_report(1, loud=0)
    evil = {n: f"{n}{EVIL}" for n in report.graph.values}
    nodes = tuple(
        replace(
            node,
            module=EVIL,
            line=EVIL,
            name=f"{node.name}{EVIL}",
            inputs={k: evil[v] for k, v in node.inputs.items()},
            outputs=tuple(evil[o] for o in node.outputs),
        )
        for node in report.graph.nodes
    )
    values = {evil[n]: replace(v, name=evil[n]) for n, v in report.graph.values.items()}
    graph = Graph(nodes, values, (evil["x"],), (evil["relu_0"],))
    measured_values = {evil[n]: v for n, v in report.values.items()}
    html = render(
        replace(
            report,
            graph=graph,
            values=measured_values,
            model=EVIL,
            command=EVIL,
            notes=(EVIL,),
            faults=tuple(faults_of(graph, measured_values, 1)),
            unknown_ops=(EVIL,),
            tool="fix",
            conflicts=(EVIL,),
            folds=(EVIL,),
            replacements=(EVIL,),
            islands=(EVIL,),
            forms=(EVIL,),
            verification=PROOF,
            bisection=evil_bisection(),
            certificate=CertificateReport(
                {EVIL: (1,)},
                {EVIL: None},
                {evil["x"]: replace(LOST, why=EVIL), EVIL: replace(bound_of(1e9), where=EVIL)},
                EVIL,
            ),
        )
    )
    assert EVIL in block(html)["texts"]
    for part in ("<img", "alert(1)</script>", "<script>alert"):
        assert part not in html, part
    assert html.count("<script") == 3
    assert html.count("</script>") == 3


def test_the_page_loads_nothing_from_a_network():
    html = render(compared_report())
    assert not re.findall(r"""\s(?:src|href|action)=["']?(?!data:)[^"']""", html)
    assert not re.findall(r"url\((?!data:)", html)
    assert "default-src 'none'" in html
    for word in ("http://", "https://", "@import", "fetch(", "XMLHttpRequest", "WebSocket"):
        assert word not in html, word


def test_five_thousand_values_stay_under_six_megabytes():
    report = chain_report(1667, loud=900)
    assert len(report.values) > 5000
    assert len(render(report).encode()) < 6e6


def one_value(found, **identity):
    value = replace(Value("x", Kind.INPUT, True, True, (2,)), **identity)
    graph = Graph((), {"x": value}, ("x",), ("x",))
    return Report("inspect", "tiny", "run", 1, 1, graph, {"x": ValueReport(found)}, ())


DEGENERATE = {
    "no value at all": replace(one_value(Range()), values={}),
    "one value without entries": one_value(Range()),
    "only zeros": one_value(Range(zeros=4, count=4)),
    "only inf": one_value(Range(nonfinite=4, count=4)),
    "computed in FP32": one_value(measured(100), bounded=False),
    "far below the map": one_value(measured(-120)),
    "no shape": one_value(measured(0), shape=()),
    "no faults": chain_report(4, loud=-1),
    "only latent faults": chain_report(
        4, loud=-1, faults=(Fault(FaultKind.LATENT, "x", "input", "", "", 5e4, 1),)
    ),
    "a fault of a value that was not measured": replace(
        one_value(Range()),
        faults=(Fault(FaultKind.SENTINEL, "gone", "aten.add", "", "", 1e9, 3),),
    ),
    "a watched model": chain_report(tool="watch"),
    "an infinite ratio": replace(fixed_report(), verification=replace(PROOF, findings=(LUCKY,))),
    "a fix that fails": replace(
        fixed_report(), verification=replace(PROOF, findings=(replace(FOUND, nonfinite=3),))
    ),
    "a fix without a plan": chain_report(4, loud=-1, tool="fix", verification=PROOF),
    "an error over a reference of zeros": compared_report(),
    "a certificate": certified_report(),
    "bounds off the map": certified_report(x=bound_of(1e300), relu_0=bound_of(1e-300)),
    "a certificate without bounds": certified_report(**dict.fromkeys(chain(4).values, LOST)),
    "a certificate of nothing": replace(fixed_report(), certificate=CertificateReport({}, {}, {})),
    "nothing to bisect": bisected_report(WITHIN),
    "a bisection that has run nothing": bisected_report(NOT_RUN),
    "a bisection that is not complete": bisected_report(HALF_WAY),
    "a second culprit that is not known": bisected_report(SECOND),
    "a bisection without tolerance": bisected_report(replace(BISECTED, tolerance=0.0)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_degenerate_report_renders(name):
    report = DEGENERATE[name]
    assert set(block(render(report))["names"]) == set(report.values)


def test_a_report_of_watch_states_no_equations():
    data = block(render(chain_report(tool="watch")))
    assert not any(data["nodes"]["laws"])


# In a browser


ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="module")
def page():
    """One page for all tests: starting a browser takes longer than a test."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser.new_page()
        browser.close()


@pytest.fixture
def open_page(page, tmp_path):
    """Opens a report; whatever the page complains of or loads fails the test."""
    heard = []

    def on_request(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            heard.append(f"request: {request.url}")

    def opened(report, width=1300, scheme="light"):
        path = tmp_path / "report.html"
        path.write_text(render(report), encoding="utf-8")
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto(path.as_uri())
        return page

    listeners = {
        "console": lambda message: heard.append(f"console: {message.text}"),
        "pageerror": lambda error: heard.append(f"error: {error}"),
        "request": on_request,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    yield opened
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert heard == []


def picture(page):
    """The map, as painted."""
    return page.evaluate("document.querySelector('#map canvas').toDataURL()")


def first_names(page, count=3):
    return page.locator("#rows tr[data-value] td:first-child").all_inner_texts()[:count]


def title(page):
    return page.locator("#details h3").inner_text()


@pytest.mark.slow
def test_degenerate_reports_open_without_a_complaint(open_page):
    for name, report in DEGENERATE.items():
        page = open_page(report)
        counted = page.locator("#count").inner_text()
        assert counted.endswith(f"of {len(report.values)} values"), name


def test_the_switch_shows_the_rescaled_ranges(open_page):
    page = open_page(fixed_report())
    before = picture(page)
    page.get_by_label("Rescaled").check()
    assert page.locator("#map").get_attribute("data-view") == "after"
    assert picture(page) != before
    page.get_by_label("As it is").check()
    assert picture(page) == before


def test_without_a_plan_the_switch_is_off_and_says_why(open_page):
    page = open_page(chain_report())
    assert page.get_by_label("Rescaled").is_disabled()
    assert "a fix shows the rescaled ranges" in page.locator("#view-note").inner_text()


def test_all_constants_can_be_shown(open_page):
    page = open_page(chain_report())
    before = picture(page)
    page.get_by_label("all constants").check()
    assert picture(page) != before


def test_searching_filters_the_table_as_one_types(open_page):
    page = open_page(chain_report())
    page.get_by_label("Search the table").press_sequentially("blocks.1 relu")
    assert first_names(page) == ["relu_1"]
    assert page.locator("#count").inner_text() == "1 of 13 values"
    page.get_by_label("Search the table").fill("blocks.py:3")
    assert first_names(page) == ["linear_3", "relu_3"]


def test_only_faults_can_be_listed(open_page):
    page = open_page(chain_report())
    page.get_by_label("only faults").check()
    assert first_names(page) == ["linear_2"]


def test_columns_sort_both_ways_and_back(open_page):
    page = open_page(chain_report())
    untouched = first_names(page)
    amax = page.get_by_role("columnheader", name="amax")
    amax.get_by_role("button").click()
    assert amax.get_attribute("aria-sort") == "descending"
    assert set(first_names(page, 2)) == {"linear_2", "relu_2"}
    amax.get_by_role("button").click()
    assert amax.get_attribute("aria-sort") == "ascending"
    assert "linear_2" not in first_names(page)
    amax.get_by_role("button").click()
    assert first_names(page) == untouched


def test_a_click_in_the_table_fills_the_details(open_page):
    page = open_page(chain_report())
    page.get_by_role("button", name="relu_1").first.click()
    assert title(page).startswith("relu_1")
    details = page.locator("#details")
    for text in ("aten.relu", "k[relu_1] == k[self]", "blocks.1.mlp.act", "linear_2"):
        assert text in details.inner_text(), text
    details.get_by_role("button", name="linear_1").click()
    assert title(page).startswith("linear_1")


def test_a_click_in_the_map_fills_the_details(open_page):
    page = open_page(chain_report())
    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + 60, box["y"] + 200)
    assert title(page).startswith("x")
    page.keyboard.press("Tab")
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    assert title(page).startswith("linear_0")
    assert page.locator("tr[aria-selected=true] td").first.inner_text() == "linear_0"


def test_a_click_on_a_fault_selects_its_value(open_page):
    page = open_page(chain_report())
    page.get_by_role("button", name="relu_0").first.click()
    page.locator(".fault button").first.click()
    assert title(page).startswith("linear_2")


def test_a_page_of_a_bisection_opens_with_the_culprit(open_page):
    page = open_page(bisected_report())
    assert title(page).startswith("linear_2")


def test_a_culprit_its_values_and_the_runs_select_what_the_explorer_shows(open_page):
    page = open_page(bisected_report())
    culprit = page.locator(".culprit")
    culprit.get_by_role("button", name="relu_1").click()
    assert title(page).startswith("relu_1")
    page.locator(".runs").get_by_role("button", name="relu_2").focus()
    page.keyboard.press("Enter")
    assert title(page).startswith("relu_2")
    culprit.get_by_role("heading").get_by_role("button").press("Enter")
    assert page.locator("tr[aria-selected=true] td").first.inner_text() == "linear_2"
    assert page.get_by_role("button", name="cast_back").count() == 0


def test_the_strips_show_what_is_left(open_page):
    page = open_page(bisected_report())
    boxes = [box.bounding_box() for box in page.locator(".runs rect.left").all()]
    widths = [box["width"] for box in boxes]
    assert [round(8 * width / widths[0]) for width in widths] == [8, 4, 2, 1]
    assert all(a["x"] <= b["x"] for a, b in pairwise(boxes))
    bad = page.locator(".runs circle.bad")
    assert [float(c.get_attribute("opacity")) for c in bad.all()] == [1.0, 0.74, 1.0]
    assert page.locator(".runs circle.good").count() == 2


def test_the_strips_follow_the_theme(open_page):
    page = open_page(bisected_report())
    fill = "getComputedStyle(document.querySelector('.strip .tried')).fill"
    light = page.evaluate(fill)
    page.locator("#theme").click()
    assert page.evaluate(fill) != light


def test_the_details_say_why_an_exponent_was_chosen(open_page):
    page = open_page(fixed_report())
    assert "needs exponent 4 or more" in page.locator("#details").inner_text()
    page.get_by_role("button", name="blocks.2.mlp.weight").first.click()
    said = page.locator("#details").inner_text()
    assert "It is tied to linear_2" in said
    assert "k[linear_2] == k[input] + k[weight]" in said


INK, OVERFLOW = (27, 36, 48), (213, 94, 0)


def rows_of(page, colour):
    """The rows of the map that a colour goes through, at the middle of the first of one value."""
    return page.evaluate(
        """([r, g, b]) => {
          const canvas = document.querySelector("#map canvas");
          const copy = document.createElement("canvas");
          [copy.width, copy.height] = [1, canvas.height];
          const pen = copy.getContext("2d", { willReadFrequently: true });
          pen.drawImage(canvas, -Math.round(canvas.width / 2) + 20, 0);
          const { data } = pen.getImageData(0, 0, 1, canvas.height);
          const near = (y) => Math.abs(data[4 * y] - r) + Math.abs(data[4 * y + 1] - g)
            + Math.abs(data[4 * y + 2] - b) < 12;
          return Array.from({ length: canvas.height }, (_, y) => y).filter(near);
        }""",
        list(colour),
    )


def bounded(bound, exponent=0, status="certified"):
    """One value, its entries under 8, with a bound as it is delivered."""
    report = one_value(measured(2))
    values = {"x": replace(report.values["x"], exponent=exponent)}
    found = CertificateReport({"x": (2,)}, {"x": None}, {"x": bound_of(bound, status)})
    return replace(report, tool="fix", values=values, verification=PROOF, certificate=found)


def height(binade, low=-32, high=24, top=22, bottom=34, whole=430):
    """The row of the map at which a binade begins."""
    return top + (high - binade) / (high - low) * (whole - top - bottom)


def test_a_bound_is_a_line_above_the_column_as_it_is_and_rescaled(open_page):
    page = open_page(bounded(2.0**10, exponent=3))
    assert rows_of(page, INK) == pytest.approx([height(13) - 1.5, height(13) - 0.5], abs=1)
    page.get_by_label("Rescaled").check()
    assert rows_of(page, INK) == pytest.approx([height(10) - 1.5, height(10) - 0.5], abs=1)
    page = open_page(replace(bounded(1.0), certificate=None))
    assert rows_of(page, INK) == []


def test_a_bound_that_fp16_does_not_hold_has_the_colour_of_overflow(open_page):
    limit = rows_of(open_page(bounded(1.0)), OVERFLOW)
    page = open_page(bounded(2.0**20, status="measured only"))
    over = [row for row in rows_of(page, OVERFLOW) if row not in limit]
    assert over == pytest.approx([height(20) - 1.5, height(20) - 0.5], abs=1)
    assert rows_of(page, INK) == []


def test_a_bound_off_the_map_is_an_arrow_at_its_rim(open_page):
    page = open_page(bounded(1e30, status="measured only"))
    rows = rows_of(page, OVERFLOW)
    assert rows[0] == pytest.approx(height(48, high=48) - 2, abs=1)
    assert sum(row < height(47, high=48) + 8 for row in rows) > 2


def test_the_details_and_the_table_tell_the_bound(open_page):
    large = bound_of(1.235e6, "measured only", "it may be 1.235e+06")
    page = open_page(certified_report(relu_1=large))
    page.get_by_role("button", name="relu_1").first.click()
    said = page.locator("#details").inner_text()
    for text in ("measured only: it may be", "1.235e6 as delivered", "balls", "1.5 bits"):
        assert text in said, text
    page.get_by_role("columnheader", name="bound").get_by_role("button").click()
    assert first_names(page, 1) == ["relu_1"]
    page.locator("#map").hover(position={"x": 60, "y": 200})
    page.get_by_text("bound 100 as delivered, by balls").wait_for()


def test_the_legend_has_bounds_only_where_there_are_any(open_page):
    line = "bound for every input"
    assert open_page(certified_report()).locator(".legend").get_by_text(line).is_visible()
    page = open_page(fixed_report())
    assert page.locator(".legend").get_by_text(line).count() == 0
    assert page.get_by_role("columnheader", name="bound").count() == 0


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_the_button_is_pressed(open_page, scheme):
    page = open_page(fixed_report(), scheme=scheme)
    pressed = page.locator("#theme").get_attribute("aria-pressed")
    assert pressed == str(scheme == "dark").lower()
    other = "light" if scheme == "dark" else "dark"
    first = background(page), picture(page)
    page.emulate_media(color_scheme=other)
    page.locator(f"html[data-theme={other}]").wait_for()
    second = background(page), picture(page)
    assert first[0] != second[0]
    assert first[1] != second[1]
    page.get_by_role("button", name="Dark").click()
    assert (background(page), picture(page)) == first
    page.emulate_media(color_scheme=scheme)
    page.emulate_media(color_scheme=other)
    assert (background(page), picture(page)) == first


def test_five_thousand_values_stay_usable(open_page):
    page = open_page(chain_report(1667, loud=900))
    assert page.locator("#rows tr[data-value]").count() < 60
    page.get_by_label("Search the table").fill("linear_900")
    assert first_names(page) == ["linear_900"]
    page.get_by_label("Search the table").fill("")
    page.locator("#rows").evaluate("rows => rows.scrollTop = rows.scrollHeight")
    page.locator("#rows tr[data-value='5000']").wait_for()
    page.locator("#map").click(position={"x": 400, "y": 200})
    assert title(page).startswith(("linear_", "relu_"))


@pytest.mark.parametrize("width", [400, 900, 1800])
@pytest.mark.parametrize("report", [fixed_report, bisected_report, certified_report])
def test_nothing_sticks_out_at_the_side(open_page, report, width):
    page = open_page(report(), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_text_from_the_model_runs_no_script(open_page):
    report = chain_report(1, loud=0)
    node = replace(report.graph.nodes[0], module=EVIL, line=EVIL)
    graph = replace(report.graph, nodes=(node, *report.graph.nodes[1:]))
    faults = tuple(faults_of(graph, report.values, 1))
    page = open_page(replace(report, graph=graph, model=EVIL, notes=(EVIL,), faults=faults))
    assert EVIL in page.locator("#details").inner_text()
    page.locator("#map").hover(position={"x": 400, "y": 200})
    assert page.locator("img").count() == 0
