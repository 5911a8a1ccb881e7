"""Listing an S3 bucket that holds keys which are no paths: `a//b`, `../c`, control characters.

Other programs write such keys. The library below cannot: one of them ends its listing of all the others. So the pages
are asked for here, and such keys are skipped. What signs them is the library nevertheless, since it knows all sources
of credentials: it signs an address and puts a name behind it, so the address is the listing's, and the name the value
of a parameter without a meaning (`x-id`, as Amazon's own clients send it).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from datetime import datetime
from urllib.parse import quote, unquote_plus

from embedstore.errors import StorageError
from embedstore.store.storage import Entry

PAGE_BYTES = 16 << 20
"""A page holds a thousand keys of up to a kilobyte each, with as much around them."""
MOST_PAGES = 10_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def s3_entries(fetch: Callable[[str], bytes], location: str, prefix: str, *, deep: bool) -> Iterator[Entry]:
    """Yield what lies below a prefix of a bucket, names relative to it; folders end with `/`.

    Parameters
    ----------
    fetch : query -> the bucket's answer to it.
    location : what to call the place in messages.
    prefix : "" or ending with `/`.
    deep : at any depth, without folders.
    """
    token: str | None = None
    for _ in range(MOST_PAGES):
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        query |= {} if deep else {"delimiter": "/"}
        query |= {} if token is None else {"continuation-token": token}
        page = _page(fetch("&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(query.items()))))
        try:
            yield from _entries(page, prefix)
        except (ValueError, OverflowError):
            raise StorageError(
                f"Cannot list {location}: a size or time in the answer is invalid. Check the address."
            ) from None
        token = page.findtext("NextContinuationToken")
        if page.findtext("IsTruncated") != "true" or not token:
            return
    raise StorageError(
        f"Cannot list {location}: expected at most {MOST_PAGES:,} pages, found more. Give the store its own bucket."
    )


def is_path(name: str) -> bool:
    """Tell whether a key, relative to the store, is one that a store could hold."""
    return not _CONTROL.search(name) and not any(part in ("", ".", "..") for part in name.split("/"))


def _entries(page: ElementTree.Element, prefix: str) -> Iterator[Entry]:
    plain = unquote_plus if page.findtext("EncodingType") == "url" else str
    for found in page.findall("CommonPrefixes"):
        yield from _named(plain(found.findtext("Prefix", "")), prefix, 0, 0)
    for found in page.findall("Contents"):
        size_bytes, moment = int(found.findtext("Size", "")), found.findtext("LastModified", "")
        modified_ns = int(datetime.fromisoformat(moment).timestamp()) * 1_000_000_000
        yield from _named(plain(found.findtext("Key", "")), prefix, size_bytes, modified_ns)


def _named(key: str, prefix: str, size_bytes: int, modified_ns: int) -> Iterator[Entry]:
    name = key.removeprefix(prefix)
    is_folder = name.endswith("/") and not modified_ns
    if key.startswith(prefix) and is_path(name.removesuffix("/") if is_folder else name):
        yield Entry(name, size_bytes, modified_ns)


def _page(content: bytes) -> ElementTree.Element:
    try:
        page = ElementTree.fromstring(content)  # noqa: S314 - see above
    except ElementTree.ParseError as error:
        raise StorageError(f"Cannot list a bucket: its answer is invalid XML ({error}). Check the address.") from None
    for element in page.iter():
        element.tag = element.tag.rpartition("}")[2]
    return page
