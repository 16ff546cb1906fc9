"""The command line: what it reads, writes and prints, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from halfsafe import Report, cli
from halfsafe.frontends.onnx.half import to_float16

ZOO = """
import torch
from torch import nn

from tests.replicas import Net


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    model[0].weight.data *= 1e6
    model[2].weight.data *= 1e-6
    return model


def named():
    inner = net()
    return Net(lambda m, x, shift: m.inner(x) + shift, inner=inner).eval()


def samples():
    return [torch.randn(3, 4) for _ in range(3)]


def both():
    return net(), samples()


def surprised():
    return net(), [torch.ones(3, 4), torch.ones(3, 4), torch.full((3, 4), 1e6)]


def never_good(candidate, reference):
    return 1.0


def unfoldable():
    return Net(lambda m, x: (x * 1e6).clamp(max=5e5) * 1e-6).eval(), samples()


def same_each_time():
    return unfoldable()[0], torch.ones(3, 4)


def healthy():
    return net()[1:2].eval(), samples()


def masked():
    def forward(m, x):
        return x.masked_fill(torch.arange(4) > 2, -1e9).softmax(-1)

    return Net(forward).eval(), samples()


def training():
    return net().train(), samples()


def three():
    return 1, 2, 3


def raising():
    raise RuntimeError("no weights\\nat all")


class Inside(nn.Module):
    def forward(self, x):
        return energy(x * 1e3)


@torch.library.custom_op("halfsafe_cli::energy", mutates_args=())
def energy(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3)


energy.register_fake(torch.empty_like)


def stored_inside():
    return nn.Sequential(Inside(), nn.Linear(4, 2)).eval(), samples()


NUMBER = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("zoo")
    (place / "zoo_of_cli.py").write_text(ZOO)
    (place / "broken_zoo.py").write_text("1 / 0")
    return place


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty folder, and gives status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["halfsafe", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def files() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


# Fixing


def test_a_model_with_its_own_samples(run):
    status, output, errors = run("fix", "zoo_of_cli:both")
    assert status == 0
    assert "Safe in FP16." in output
    assert output.splitlines()[-1] == "Next: halfsafe fix zoo_of_cli:both --report report.html"
    assert errors == ""
    assert files() == []


def test_fix_then_report(run):
    status, output, _ = run("fix", "zoo_of_cli:both", "--report", "r.json", "-o", "fixed.pt2")
    assert status == 0
    assert output.splitlines()[-1] == "Next: halfsafe report r.json -o r.html"
    assert files() == ["fixed.pt2", "r.json"]
    loaded = torch.export.load("fixed.pt2").module()
    assert torch.isfinite(loaded(torch.randn(3, 4).half())).all()
    status, again, errors = run("report", "r.json")
    assert (status, errors) == (0, "")
    assert again.rpartition("Next:")[0] == output.rpartition("Next:")[0]
    saved = Path("r.json").read_text()
    assert json.loads(json.dumps(Report.load("r.json").to_json())) == json.loads(saved)


def test_weights_in_float32(run):
    status, _, _ = run(
        "fix", "zoo_of_cli:both", "-o", "fixed.safetensors", "--dtype", "float32"
    )  # fmt: skip
    assert status == 0
    assert files() == ["fixed.safetensors"]


def test_a_model_that_is_not_safe_ends_with_status_1(run):
    options = ("--tolerance", "1e-6", "--report", "r.json")
    status, output, errors = run("fix", "zoo_of_cli:both", *options)
    assert status == 1
    assert "FP16 cannot do better here: output" in output
    assert errors == ""
    status, output, _ = run("report", "r.json")
    assert status == 1
    assert "FP16 cannot do better here" in output


def test_a_sample_louder_than_those_measured_is_measured_as_well(run):
    status, output, errors = run("fix", "zoo_of_cli:surprised")
    assert (status, errors) == (0, "")
    assert "not measured" not in output


@pytest.mark.slow
def test_a_metric_of_the_users_decides(run):
    fix = ("fix", "zoo_of_cli:both", "--tolerance", "1e-4", "--metric")
    assert run(*fix, "top-1")[0] == 0
    status, output, _ = run(*fix, "zoo_of_cli:never_good")
    assert status == 1
    assert "never_good is 1, above 0.0001" in output
    assert run(*fix, "best")[0] == 2


def test_a_crash_of_our_own_is_one_line_and_status_3(run, monkeypatch):
    def crash(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("halfsafe.cli.fixing.fix", crash)
    status, _, errors = run("fix", "zoo_of_cli:both")
    assert status == 3
    assert errors.startswith("halfsafe crashed: RuntimeError: a bug at ")
    assert len(errors.splitlines()) == 1


def test_headroom_and_real_half_kernels(run):
    options = ("--headroom", "2", "--engine", "torch")
    status, output, _ = run("fix", "zoo_of_cli:both", *options, "--report", "r.json")
    assert status == 0
    assert "torch FP16" in output
    assert Report.load("r.json").headroom == 2


@pytest.mark.slow
def test_a_program_in_a_file(run):
    assert run("fix", "zoo_of_cli:both", "-o", "net.pt2", "--dtype", "float32")[0] == 0
    status, output, errors = run("inspect", "net.pt2", "-o", "r.json")
    assert (status, errors) == (0, "")
    assert "1 sample" in output
    assert run("fix", "net.pt2", "--samples", "zoo_of_cli:samples")[0] == 0


@pytest.fixture
def onnx_file(run):
    """A network that overflows, as a file, with a sample beside it."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    with torch.no_grad():
        net[0].weight.mul_(1e6)
        net[2].weight.mul_(1e-6)
    x = torch.randn(3, 4)
    torch.onnx.export(net, (x,), "net.onnx", dynamo=True, verbose=False, input_names=["x"])
    np.savez("one.npz", x=x.numpy())
    return x.numpy()


def test_an_onnx_file(run, onnx_file):
    status, output, errors = run("fix", "net.onnx", "--samples", "one.npz", "-o", "half.onnx")
    assert (status, errors) == (0, "")
    assert "Safe in FP16." in output
    session = onnxruntime.InferenceSession("half.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": onnx_file})
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_an_onnx_file_with_float16_inputs_and_outputs(run, onnx_file):
    options = ("-o", "half.onnx", "--io", "float16")
    assert run("fix", "net.onnx", "--samples", "one.npz", *options)[0] == 0
    session = onnxruntime.InferenceSession("half.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": onnx_file.astype(np.float16)})
    assert found.dtype == np.float16


def test_an_onnx_file_of_another_tool_is_verified(run, onnx_file):
    ir.save(to_float16(ir.load("net.onnx")), "theirs.onnx")
    status, output, _ = run("verify", "net.onnx", "theirs.onnx", "--samples", "one.npz")
    assert (status, "nonfinite outputs" in output) == (1, True)
    assert "in its own framework" in output
    assert output.splitlines()[-1] == "Next: halfsafe fix net.onnx --samples one.npz"
    run("fix", "net.onnx", "--samples", "one.npz", "-o", "half.onnx")
    status, output, _ = run("verify", "net.onnx", "half.onnx", "--samples", "one.npz", "--json")
    found = json.loads(output)
    assert (status, found["safe"], found["after_nonfinite"]) == (0, True, 0)
    assert 0 < found["own"] < 1e-2


def test_an_onnx_file_is_inspected(run, onnx_file):
    status, output, _ = run("inspect", "net.onnx", "--samples", "one.npz")
    assert status == 1
    assert output.splitlines()[-1] == "Next: halfsafe fix net.onnx --samples one.npz -o fixed.onnx"


# Inspecting


def test_inspect_finds_the_fault_and_ends_with_status_1(run):
    status, output, errors = run("inspect", "zoo_of_cli:both")
    assert status == 1
    assert "aten.linear" in output
    assert "Not safe in FP16" in output
    assert output.splitlines()[-1] == "Next: halfsafe fix zoo_of_cli:both -o fixed.pt2"
    assert (errors, files()) == ("", [])


def test_inspect_by_ranges_only(run):
    status, output, _ = run("inspect", "zoo_of_cli:both", "--ranges-only")
    assert status == 1
    assert "FP16 was not run" in output
    status, output, _ = run("inspect", "zoo_of_cli:healthy", "--ranges-only")
    assert status == 0
    assert "outputs may be wrong" in output


def test_inspect_ends_with_status_0_where_there_is_nothing(run):
    status, output, _ = run("inspect", "zoo_of_cli:healthy")
    assert status == 0
    assert "FP16 holds every value" in output


@pytest.mark.slow
def test_kinds_can_be_ignored(run):
    assert run("inspect", "zoo_of_cli:masked")[0] == 0, "it harms no output"
    assert run("inspect", "zoo_of_cli:masked", "--strict")[0] == 1
    assert run("inspect", "zoo_of_cli:masked", "--strict", "--ignore", "sentinel")[0] == 0
    assert run("inspect", "zoo_of_cli:masked", "--strict", "--ignore", "latent")[0] == 1


def test_inspect_prints_json_and_nothing_else(run):
    status, output, _ = run("inspect", "zoo_of_cli:both", "--json")
    assert status == 1
    report = Report.from_json(json.loads(output))
    assert report.command == "halfsafe inspect zoo_of_cli:both --json"
    assert report.faults


def test_fix_prints_json_and_nothing_else(run):
    status, output, _ = run("fix", "zoo_of_cli:both", "--json")
    assert status == 0
    assert Report.from_json(json.loads(output)).safe


def test_a_report_is_written_for_people(run):
    assert run("inspect", "zoo_of_cli:both", "-o", "r.json")[0] == 1
    status, output, _ = run("report", "r.json", "-o", "r.html", "--model-explorer", "n.json")
    assert status == 1
    assert output.splitlines()[-1] == "Next: open r.html in a browser"
    assert files() == ["n.json", "r.html", "r.json"]
    assert "halfsafe inspect zoo_of_cli:both -o r.json" in Path("r.html").read_text()
    assert json.loads(Path("n.json").read_text())["graph"]["results"]


def test_a_report_is_written_for_people_at_once(run):
    assert run("inspect", "zoo_of_cli:both", "-o", "r.html")[0] == 1
    assert run("fix", "zoo_of_cli:both", "--report", "fixed.html")[0] == 0
    assert files() == ["fixed.html", "r.html"]


# Samples


def test_samples_from_a_callable(run):
    status, output, _ = run("fix", "zoo_of_cli:net", "--samples", "zoo_of_cli:samples")
    assert status == 0
    assert "3 samples" in output


def test_samples_as_positional_arrays(run):
    np.savez("one.npz", np.ones((3, 4), np.float32))
    status, output, _ = run("fix", "zoo_of_cli:net", "--samples", "one.npz")
    assert status == 0
    assert "1 sample" in output


def test_samples_as_named_arrays(run):
    np.savez("one.npz", shift=np.ones(2, np.float32), x=np.ones((3, 4), np.float32))
    assert run("fix", "zoo_of_cli:named", "--samples", "one.npz")[0] == 0


def test_samples_as_a_folder(run):
    Path("images").mkdir()
    for i in range(4):
        np.savez(f"images/{i}.npz", np.full((3, 4), i + 1, np.float32))
    status, output, _ = run("fix", "zoo_of_cli:net", "--samples", "images")
    assert status == 0
    assert "4 samples" in output


def test_samples_as_safetensors(run):
    save_file({"x": torch.ones(3, 4), "shift": torch.ones(2)}, "one.safetensors")
    assert run("fix", "zoo_of_cli:named", "--samples", "one.safetensors")[0] == 0


# Misuse


def complaint(run, *arguments: str) -> str:
    """The one line on stderr; nothing is left behind."""
    before = files()
    status, output, errors = run(*arguments)
    assert status == 2
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert files() == before
    return errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("zoo_of_cli:training", "training mode: call model.eval()"),
        ("zoo_of_cli:net", "no samples: pass --samples"),
        ("zoo_of_cli:three", "zoo_of_cli:three returns 3 things"),
        ("zoo_of_cli:nothing", "cannot find 'zoo_of_cli:nothing'"),
        ("zoo_of_cli:NUMBER", "'zoo_of_cli:NUMBER' is a int, not a callable"),
        ("zoo_of_cli:raising", "'zoo_of_cli:raising' fails: RuntimeError: no weights at"),
        ("broken_zoo:net", "importing 'broken_zoo' fails: ZeroDivisionError: division by zero at"),
        ("no_such_module:net", "cannot find 'no_such_module:net'"),
        ("zoo_of_cli", "'zoo_of_cli' is not package.module:callable"),
        (":net", "':net' is not package.module:callable"),
        ("zoo_of_cli:", "'zoo_of_cli:' is not package.module:callable"),
        ("zoo_of_cli:net --samples none.npz", "there is no file 'none.npz'"),
        ("zoo_of_cli:net --samples none.safetensors", "there is no file 'none.safetensors'"),
        ("zoo_of_cli:net --samples .", "the folder '.' holds neither .npz files nor pictures"),
        ("zoo_of_cli:net --samples a.txt", "'a.txt' is text: a directory's tokenizer reads it"),
        ("zoo_of_cli:net --samples a.gif", "'a.gif' is not package.module:callable, nor a file"),
        ("zoo_of_cli:both -o x.onnx", "cannot write 'x.onnx': give it the suffix .pt2"),
        ("zoo_of_cli:both -o x.txt", "cannot write 'x.txt': give it the suffix"),
        ("none.onnx --samples zoo_of_cli:samples", "there is no file 'none.onnx'"),
        ("none.onnx", "there is no file 'none.onnx'"),
        ("zoo_of_cli:both --report x.txt", "cannot write 'x.txt': give it the suffix .json"),
        ("zoo_of_cli:both -o gone/x.pt2", "cannot write 'gone/x.pt2': the folder 'gone'"),
        ("zoo_of_cli:unfoldable -o x.safetensors", "use fixed.model instead"),
    ],
)
def test_misuse_of_fix(run, arguments, words):
    assert words in complaint(run, "fix", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("zoo_of_cli:training", "training mode: call model.eval()"),
        ("zoo_of_cli:net", "no samples: pass --samples"),
        ("zoo_of_cli:both -o r.txt", "cannot write 'r.txt': give it the suffix .json or .html"),
        ("zoo_of_cli:both -o gone/r.html", "cannot write 'gone/r.html': the folder 'gone'"),
        ("none.pt2", "there is no file 'none.pt2'"),
    ],
)
def test_misuse_of_inspect(run, arguments, words):
    assert words in complaint(run, "inspect", *arguments.split())


def test_a_truncated_program(run):
    Path("cut.pt2").write_bytes(b"PK\x03\x04")
    assert "cannot read 'cut.pt2'" in complaint(run, "inspect", "cut.pt2")


@pytest.mark.parametrize("name", ["one.npz", "one.safetensors"])
def test_a_file_of_samples_that_is_none(run, name):
    Path(name).write_text("no archive")
    assert f"cannot read '{name}'" in complaint(run, "fix", "zoo_of_cli:net", "--samples", name)


def test_a_report_that_is_missing(run):
    assert "there is no report 'r.json'" in complaint(run, "report", "r.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1}'])
def test_a_file_that_is_no_report(run, text):
    Path("r.json").write_text(text)
    assert "'r.json' is not a report" in complaint(run, "report", "r.json")


@pytest.mark.parametrize(
    "arguments",
    [("fix",), ("fix", "zoo_of_cli:both", "--headroom", "-1"), ("mend", "x"), ("fix", "x", "--y")],
)
def test_a_command_line_that_does_not_parse(run, arguments):
    status, output, errors = run(*arguments)
    assert status == 2
    assert output == ""
    assert "Traceback" not in errors


def test_the_installed_command(folder):
    command = [Path(sys.executable).with_name("halfsafe"), "fix", "zoo_of_cli:training"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1


# Bisecting


def test_bisecting_names_the_operator_and_what_mends_it(run):
    status, output, errors = run(
        "bisect", "zoo_of_cli:unfoldable", "--engine", "torch", "-o", "b.html", "--fresh"
    )
    assert (status, errors) == (1, "")
    assert "mul" in output
    assert output.splitlines()[-1] == "Next: halfsafe fix zoo_of_cli:unfoldable -o fixed.pt2"
    assert files() == ["b.html"]


def test_what_is_within_the_tolerance_ends_with_0(run):
    status, output, _ = run("bisect", "zoo_of_cli:healthy", "--fresh", "--json")
    assert status == 0
    assert json.loads(output)["bisection"]["culprits"] == []


@pytest.mark.slow
def test_outcomes_are_kept_in_the_users_cache(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for expected in (4, 0):
        _, output, _ = run("bisect", "zoo_of_cli:same_each_time", "--engine", "torch", "--json")
        assert json.loads(output)["bisection"]["builds"] == expected
    assert files() == ["cache"]


def test_where_a_kernel_is_to_blame_its_profile_is_next(run):
    command = ["bisect", "zoo_of_cli:stored_inside", "--engine", "torch", "--fresh"]
    _, output, _ = run(*command)
    assert output.splitlines()[-1] == f"Next: halfsafe {' '.join(command)} --profile torch.json"
    _, output, _ = run(*command, "--profile", "torch.json")
    given = "zoo_of_cli:stored_inside --engine torch --profile torch.json"
    assert output.splitlines()[-1] == f"Next: halfsafe fix {given} -o fixed.pt2"
    assert files() == ["torch.json"]
