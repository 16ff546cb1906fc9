"""The page beside other tools is what the benches have recorded."""

from pathlib import Path

from bench.comparison import page


def test_the_page_beside_other_tools_is_current():
    known = Path(__file__).parents[1] / "docs" / "comparison.md"
    assert known.read_text(encoding="utf-8") == page(), (
        "run: python -m bench.comparison > docs/comparison.md"
    )
