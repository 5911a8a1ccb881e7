"""embedstore publish-index: let a web server show the store."""

from __future__ import annotations

from embedstore_cli import options


def publish_index(store: options.StorePlace = None, json: options.Json = False) -> None:
    """Write index.json, by which the store can be read from any web server.

    Run it again after each fill.
    """
    from embedstore import library
    from embedstore_cli.output import count, notice, size, write_json

    published = library.publish_index(store)
    if json:
        write_json(published.to_json())
    else:
        notice(f"Listed {count(published.files)} files, {size(published.listed_bytes)}, in {published.location}.")
