"""Numbers with their nouns, and sentences."""

from __future__ import annotations


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number and its noun.

    >>> counted(1, "fault"), counted(1200, "fault")
    ('1 fault', '1,200 faults')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def sentence(text: str) -> str:
    """With a capital and a full stop.

    >>> sentence("what broke")
    'What broke.'
    """
    return f"{text[0].upper()}{text[1:]}."
