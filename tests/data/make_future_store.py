"""Write `store_from_the_future`, as a later version may leave it to this one: `python tests/data/make_future_store.py`.

Made with today's writer, then changed as docs/format.md lets later versions change documents. Written once; a folder
that exists is left as it is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from make_golden_stores import batch, golden_recipe

from embedstore.records import Canaries
from embedstore.store import SpaceStore

PLACE = Path(__file__).parent / "store_from_the_future"


def canonical(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def write_sealed(file: Path, document: dict[str, Any]) -> None:
    document.pop("sha256", None)
    file.write_bytes(canonical({**document, "sha256": hashlib.sha256(canonical(document)).hexdigest()}))


def make_space(name: str) -> Path:
    """Make a space of the rows 0, 1, 2 with today's writer; return its folder."""
    recipe = golden_recipe("float32", "full")
    recipe = type(recipe)(**{**recipe.__dict__, "implementation": f"{name}/1"})
    vectors = batch(recipe, [0, 1]).vectors
    space = SpaceStore.open(PLACE, create=True, segment_format="hdf5").create_space(
        recipe, name, Canaries(("MKV", "W"), vectors)
    )
    space.append(batch(recipe, [0, 1, 2]))
    return PLACE / "spaces" / space.id


def change_recipe(folder: Path, **fields: Any) -> None:
    """Give the recipe of a space fields that are not known yet, and the space the id that follows from them."""
    document = json.loads((folder / "space.json").read_bytes())
    document["recipe"] |= fields
    recipe = json.dumps(document["recipe"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document["id"] = hashlib.sha256(recipe.encode()).hexdigest()
    write_sealed(folder / "space.json", document)
    change_commit(folder, space=document["id"])
    folder.rename(folder.with_name(document["id"]))


def change_commit(folder: Path, **fields: Any) -> None:
    (file,) = (folder / "commits").iterdir()
    content = canonical({**json.loads(file.read_bytes()), **fields})
    file.unlink()
    file.with_name(f"{hashlib.sha256(content).hexdigest()}.json").write_bytes(content)


def change_document(folder: Path, **fields: Any) -> None:
    document = json.loads((folder / "space.json").read_bytes())
    write_sealed(folder / "space.json", {**document, **fields})


def main() -> None:
    if PLACE.exists():
        return
    described = make_space("described")
    change_document(described, description="for people", requires=[])
    change_commit(described, written_by={"name": "embedstore", "version": "9.0"})
    change_document(make_space("residues"), requires=["per-residue vectors"])
    change_recipe(make_space("adapted"), adapter_sha256="0" * 64)
    change_commit(make_space("packed"), requires=["compressed vectors"])
    (PLACE / "spaces" / "catalogue").mkdir()
    (PLACE / "spaces" / "catalogue" / "space.json").write_text("{}\n")
    root = json.loads((PLACE / "embedstore.json").read_bytes())
    write_sealed(PLACE / "embedstore.json", {**root, "version": 9, "made_by": "a later version"})


if __name__ == "__main__":
    main()
