"""docs/errors.md is of messages that there are; what is not installed is named, with its extra."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import halfsafe

SOURCE = Path(halfsafe.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


def messages():
    """Every text in the source, with ... for what is filled in."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "..." for p in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


KNOWN = [re.sub(r"\s+", " ", text) for text in messages()]
ENTRIES = re.findall(r"^- \*\*`(.+?)`\*\*", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_has_entries():
    assert len(ENTRIES) > 25


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_of_a_message_that_there_is(entry):
    wanted = [part.strip(" '.") for part in re.split(r"\.\.\.+", entry)]
    wanted = [part for part in wanted if len(part) > 3]
    assert wanted
    assert any(all(part in text for part in wanted) for text in KNOWN), wanted


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("torch", ["fix", "net.pt2"], "torch"),
        ("onnx", ["fix", "net.onnx"], "onnx"),
        ("onnxruntime", ["net.onnx"], "onnx"),
        ("torch", ["fix", "dir"], "huggingface"),
        ("torch", ["inspect", "dir"], "huggingface"),
        ("transformers", ["fix", "dir"], "huggingface"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(missing, arguments, extra, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"")
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"sys.argv = ['halfsafe', *{arguments!r}]\n"
        "from halfsafe.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.count("\n") == 1
    assert f"pip install 'halfsafe[{extra}]'" in ran.stderr
    assert missing in ran.stderr
