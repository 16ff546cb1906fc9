"""`pytest --older`: what an older onnx or onnxruntime has no operator for is skipped."""

from collections.abc import Generator

import pytest

UNKNOWN = (
    "No registered schema for operator",
    "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset",
    "the model is at opset ",
)
"""How onnx, onnxruntime and halfsafe say that a model is newer than they are."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--older", action="store_true", help="skip what older packages do not know")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    try:
        return (yield)
    except AssertionError:
        raise
    except Exception as error:
        if item.config.getoption("older") and any(words in str(error) for words in UNKNOWN):
            pytest.skip(str(error).splitlines()[0])
        raise
