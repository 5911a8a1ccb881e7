"""Reads the docstrings of this project for the API reference.

They are numpydoc with one liberty: `name : what it is` stands in one paragraph, since its type is in the signature.
Here these paragraphs become what numpydoc's readers expect, a name (or the type of what is returned or raised) with an
indented description below.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

_HEADING = re.compile(r"^(?P<title>Parameters|Attributes|Returns|Yields|Raises)\n-+\n", flags=re.MULTILINE)
_ANY_HEADING = re.compile(r"^[A-Z][a-z ]+\n-+$", flags=re.MULTILINE)
_SEVERAL_ERRORS = re.compile(r"(?<=[.;])\s+(?=[A-Z]\w*(?:Error|Interrupt|Warning)\b[^:\n]*\s:\s)")


class PlainDocstrings(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            returns = getattr(obj, "returns", None) if obj.is_function else None
            obj.docstring.value = numpydoc(obj.docstring.value, str(returns) if returns is not None else "")


def numpydoc(text: str, returns: str = "") -> str:
    """Rewrite the sections of a docstring.

    Parameters
    ----------
    returns : type that the function returns; "" where it says none.
    """
    heading = _HEADING.search(text)
    if heading is None:
        return text
    following = _ANY_HEADING.search(text, heading.end())
    end = following.start() if following else len(text)
    body = text[heading.end() : end].strip("\n")
    if heading["title"] in ("Returns", "Yields"):
        body = _described(_result_type(returns, heading["title"]), body) if returns else body
    elif heading["title"] == "Raises":
        body = "\n".join(_item(item) for item in _items(_SEVERAL_ERRORS.sub("\n", body)))
    else:
        body = "\n".join(_item(item) for item in _items(body))
    return text[: heading.end()] + body + "\n\n" + numpydoc(text[end:], returns)


def _items(body: str) -> list[str]:
    return [item.rstrip() for item in re.split(r"\n(?=\S)", body) if item.strip()]


def _item(item: str) -> str:
    """An item of numpydoc; of several names with one description, one item each."""
    names, colon, what = item.partition(" : ")
    return "\n".join(_described(name, what) for name in names.split(", ")) if colon else item


def _described(name: str, what: str) -> str:
    lines = [line.strip() for line in what.splitlines()]
    return "\n".join([name, *(f"    {line}".rstrip() for line in lines)])


def _result_type(returns: str, title: str) -> str:
    inner = re.fullmatch(r"(?:Iterator|Iterable|Generator)\[(.*)\]", returns)
    return inner[1] if inner and title == "Yields" else returns
