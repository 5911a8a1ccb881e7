"""Changes to the documents of a store such as a stranger, a bug or a bad disk may make: one at a time, by a seed.

Most are *sealed* again: digests, checksums and names are made right for the changed content, so that the change gets
past them to what reads the document. `mutation_run` says what must hold all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from embedstore.store.index import MAGIC

Document = dict[str, Any]
Place = tuple[Any, Any]
"""(list or object, index or name): where a value is."""

_RAW = "@raw@"
_AGAIN = "@again@"
"""Behind a field's name: the same name a second time in one object."""
_MISFITS: list[Any] = [None, True, False, 0, 1, -1, 1.5, "", "x", [], {}, [[]], [None], {"a": 1}, "é", "\x1b[2J"]
_NUMBERS: list[Any] = [2**31, 2**32, 2**53, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64, 1e308, 5e-324, -0.0, -(2**63)]
_LITERALS = ["NaN", "Infinity", "-Infinity", "1" + "0" * 400, "1" + "0" * 5000, "1e999"]
_NESTED = ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "[" * 900 + "]" * 900]
_TEXTS = ["x" * 1_000_000, "\ud800", "../../../etc/passwd", "/etc/passwd", "a/" * 5_000, "\0", "-", "."]
_SUFFIX = {"\n", "\0", "/", ".", "é", "\ud800"}
_HEXADECIMAL = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_NONCE = re.compile(r"[0-9a-f]{32}")


def canonical(document: Document) -> bytes:
    """As the store writes it, but for literals and repeated fields, which it would not write."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    text = re.sub(rf'"{_RAW}(\d+)"', lambda match: (_LITERALS + _NESTED)[int(match[1])], text)
    return text.replace(_AGAIN, "").encode("utf-8", "surrogatepass")


def sealed(document: Document) -> bytes:
    """With the digest that the store looks for."""
    bare = {name: value for name, value in document.items() if name != "sha256"}
    return canonical({**bare, "sha256": hashlib.sha256(canonical(bare)).hexdigest()})


class Mutator:
    """Changes one document of a store at a time.

    Parameters
    ----------
    place : of a store, to be changed.
    space_id : the space that changes; others are left alone.
    """

    def __init__(self, place: Path, space_id: str, seed: int) -> None:
        self._place = place
        self._folder = place / "spaces" / space_id
        self._random = random.Random(seed)
        self._names = sorted(_texts_in(place))

    def mutate(self) -> tuple[str, str]:
        """Change something; return which kind of document it was, and what was done."""
        kinds: dict[str, tuple[str, int]] = {
            "root": ("embedstore.json", 1),
            "space": (f"spaces/{self._folder.name}/space.json", 4),
            "commit": (f"spaces/{self._folder.name}/commits/*.json", 8),
            "signature": (f"spaces/{self._folder.name}/signatures/*.json", 2),
            "condemned": (f"spaces/{self._folder.name}/gc/*.json", 2),
            "pin": ("pins/*.json", 2),
            "web index": ("index.json", 2),
            "index": (f"spaces/{self._folder.name}/index/*.idx", 4),
        }
        kind = self._random.choices(list(kinds), [weight for _, weight in kinds.values()])[0]
        file = self._random.choice(sorted(self._place.glob(kinds[kind][0]), key=_age))
        if self._random.random() < 0.15:
            done = self._random.choice(_AS_A_FILE)(self, file)
        elif kind == "index":
            done = self._random.choice(_IN_AN_INDEX)(self, file)
        else:
            done = self._mutate_document(file)
        return kind, f"{file.relative_to(self._place)}: {done}"

    def _mutate_document(self, file: Path) -> str:
        document = json.loads(file.read_bytes())
        done = self._change(document)
        if self._random.random() < 0.15:
            file.write_bytes(canonical(document))
            return f"{done}, not sealed"
        if "commits" in file.parts:
            self._put_commit(file, document)
        elif file.name == "space.json" and self._random.random() < 0.7:
            self._put_space(document)
        else:
            file.write_bytes(sealed(document))
        return done

    def _put_commit(self, file: Path, document: Document) -> None:
        """Write a commit under its new digest; half of the time, what named it still names it."""
        content = canonical(document)
        digest = hashlib.sha256(content).hexdigest()
        file.unlink()
        file.with_name(f"{digest}.json").write_bytes(content)
        if self._random.random() < 0.5:
            self._rename_everywhere({file.stem: digest})

    def _put_space(self, document: Document) -> None:
        """Write a space's document where its recipe belongs, with the commits following."""
        try:
            recipe = json.dumps(document["recipe"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            new_id = hashlib.sha256(canonical_text(recipe)).hexdigest()
        except KeyError:
            new_id = self._folder.name
        document["id"] = document.get("id") and new_id
        (self._folder / "space.json").write_bytes(sealed(document))
        if new_id == self._folder.name:
            return
        renamed: dict[str, str] = {}
        for file in sorted(self._folder.glob("commits/*.json"), key=_age):  # what is replaced is older
            text = file.read_text().replace(self._folder.name, new_id)
            for old, new in renamed.items():
                text = text.replace(old, new)
            content = canonical(json.loads(text))
            renamed[file.stem] = hashlib.sha256(content).hexdigest()
            file.unlink()
            file.with_name(f"{renamed[file.stem]}.json").write_bytes(content)
        self._rename_everywhere({**renamed, self._folder.name: new_id})
        self._folder = self._folder.rename(self._folder.with_name(new_id))

    def _rename_everywhere(self, new_names: dict[str, str]) -> None:
        """Let documents that name a commit by its old digest name it by its new one."""
        for file in [*self._place.glob("pins/*.json"), *self._folder.glob("gc/*.json")]:
            text = file.read_text()
            for old, new in new_names.items():
                text = text.replace(old, new)
            file.write_bytes(sealed(json.loads(text)))
        for file in self._folder.glob("index/*.idx"):
            header, arrays = index_parts(file.read_bytes())
            header["commits"] = [new_names.get(commit, commit) for commit in header["commits"]]
            file.write_bytes(index_content(header, arrays))

    def _change(self, document: Document) -> str:
        place = self._random.choice(list(_places(document)))
        container, name = place
        before = container[name]
        done = self._random.choice(_IN_A_DOCUMENT)(self, place)
        return f"{name!s:.40} ({before!r:.60}) {done}"

    # In a document ------------------------------------------------------------------------------------------------

    def _remove(self, place: Place) -> str:
        del place[0][place[1]]
        return "removed"

    def _set(self, place: Place, value: Any) -> str:
        place[0][place[1]] = value
        return f"→ {value!r:.60}"

    def _retype(self, place: Place) -> str:
        return self._set(place, self._random.choice(_MISFITS))

    def _renumber(self, place: Place) -> str:
        value = place[0][place[1]]
        if type(value) is int and self._random.random() < 0.5:
            return self._set(place, self._random.choice([value + 1, value - 1, value * 2, -value, value + 24, 0]))
        return self._set(place, self._random.choice(_NUMBERS))

    def _write_literal(self, place: Place) -> str:
        number = self._random.randrange(len(_LITERALS) + len(_NESTED))
        self._set(place, f"{_RAW}{number}")
        return f"→ {(_LITERALS + _NESTED)[number]:.20}"

    def _retext(self, place: Place) -> str:
        value = place[0][place[1]]
        if isinstance(value, str) and self._random.random() < 0.5:
            suffix = self._random.choice(sorted(_SUFFIX))
            return self._set(place, self._random.choice([value.upper(), value + suffix, f"../{value}", value[:-1]]))
        return self._set(place, self._random.choice(_TEXTS))

    def _take_another_name(self, place: Place) -> str:
        """A name of the same kind, from anywhere in the store."""
        value = place[0][place[1]]
        alike = [name for name in self._names if isinstance(value, str) and _kind(name) == _kind(value)]
        return self._set(place, self._random.choice(alike or self._names))

    def _rename(self, place: Place) -> str:
        container, name = place
        if not isinstance(container, dict):
            return self._double(place)
        alike = [other for other in self._names if _kind(other) == _kind(name)]
        new = self._random.choice([name.upper(), f"{name}\n", f"../{name}", "", *alike[:3], *_TEXTS[1:]])
        container[new] = container.pop(name)
        return f"renamed {new!r:.60}"

    def _double(self, place: Place) -> str:
        value = place[0][place[1]]
        if isinstance(value, list):
            value.extend(json.loads(json.dumps(value)) * self._random.choice([1, 1, 1000 if len(value) < 8 else 1]))
            return f"extended to {len(value)}"
        if isinstance(place[0], list):
            place[0].insert(place[1], value)
            return "doubled"
        place[0][f"{place[1]}{_AGAIN}"] = self._random.choice([value, None, 0, "x"])
        return "twice"

    def _exchange(self, place: Place) -> str:
        container, name = place
        others = list(container) if isinstance(container, dict) else range(len(container))
        other = self._random.choice(list(others))
        container[name], container[other] = container[other], container[name]
        return f"exchanged with {other!s:.40}"

    def _add(self, place: Place) -> str:
        container = place[0] if isinstance(place[0], dict) else {}
        new = self._random.choice([("requires", []), ("requires", ["x"]), ("requires", "x"), ("original_nonce", 5)])
        if self._random.random() < 0.4:
            new = ("note", self._random.choice(["people's", 1, None, {"a": ["b"]}]))
        container[new[0]] = new[1]
        return f"and {new}"

    # In an index --------------------------------------------------------------------------------------------------

    def _mutate_header(self, file: Path) -> str:
        header, arrays = index_parts(file.read_bytes())
        done = self._change(header)
        file.write_bytes(index_content(header, arrays, keep_checksum="crc32c" in done))
        return f"header: {done}"

    def _mutate_arrays(self, file: Path) -> str:
        header, (prefix, row, segment) = index_parts(file.read_bytes())
        count = len(prefix)
        some = np.sort(self._generator().permutation(count)[: count // 2])
        order = self._generator().permutation(count)
        variants = {
            "keys hidden": (prefix[some], row[some], segment[some]),
            "all keys hidden": (prefix[:0], row[:0], segment[:0]),
            "entries twice": (np.repeat(prefix, 2), np.repeat(row, 2), np.repeat(segment, 2)),
            "prefixes shuffled": (prefix[order], row, segment),
            "prefixes equal": (np.full_like(prefix, prefix[0]), row, segment),
            "rows shuffled": (prefix, row[order], segment),
            "rows beyond": (prefix, np.full_like(row, 2**32 - 1), segment),
            "segments shuffled": (prefix, row, segment[order]),
            "segments beyond": (prefix, row, np.full_like(segment, 2**16 - 1)),
        }
        done = self._random.choice(sorted(variants))
        header["keys"] = len(variants[done][0])
        file.write_bytes(index_content(header, variants[done]))
        return done

    def _mutate_header_length(self, file: Path) -> str:
        content = file.read_bytes()
        length = self._random.choice([0, 1, 7, len(content), len(content) - 16, 2**31, 2**63, 2**64 - 1])
        file.write_bytes(content[:8] + length.to_bytes(8, "little") + content[16:])
        return f"header of {length} bytes"

    def _mutate_size(self, file: Path) -> str:
        content = file.read_bytes()
        size = self._random.choice([0, 7, 8, 15, 16, 64, len(content) - 1, len(content) - 14])
        file.write_bytes(self._random.choice([content[:size], content + bytes(14), bytes(len(content))]))
        return f"{file.stat().st_size} bytes"

    def _rename_index(self, file: Path) -> str:
        new = file.with_name(f"{'9' * 20}-{file.name.partition('-')[2]}")
        file.rename(new)
        return f"now {new.name}"

    # As a file ----------------------------------------------------------------------------------------------------

    def _flip(self, file: Path) -> str:
        content = bytearray(file.read_bytes())
        position = self._random.randrange(len(content))
        content[position] ^= 1 << self._random.randrange(8)
        file.write_bytes(content)
        return f"byte {position} flipped"

    def _cut(self, file: Path) -> str:
        content = file.read_bytes()
        file.write_bytes(content[: self._random.choice([0, 1, len(content) // 2, len(content) - 1])])
        return "cut"

    def _delete(self, file: Path) -> str:
        file.unlink()
        return "deleted"

    def _make_a_folder(self, file: Path) -> str:
        file.unlink()
        file.mkdir()
        return "a folder"

    def _make_a_pipe(self, file: Path) -> str:
        """What is asked for it waits for ever."""
        file.unlink()
        os.mkfifo(file)
        return "a pipe"

    def _swap(self, file: Path) -> str:
        other = self._random.choice(sorted(path for path in self._folder.rglob("*") if path.is_file() and path != file))
        aside = file.with_name("aside")
        file.rename(aside)
        other.rename(file)
        aside.rename(other)
        return f"swapped with {other.relative_to(self._place)}"

    def _take_from_the_other_space(self, file: Path) -> str:
        others = [
            path for path in self._place.glob(f"spaces/*/{file.parent.name}/*") if self._folder not in path.parents
        ]
        if not others:
            return self._flip(file)
        other = self._random.choice(sorted(others))
        shutil.copyfile(other, file.with_name(other.name))
        return f"beside a copy of {other.relative_to(self._place)}"

    def _copy_elsewhere(self, file: Path) -> str:
        data = self._random.choice(sorted(self._folder.glob("data/*")))
        folder = self._random.choice(
            [file.parent / "sub", data if data.is_dir() else data.with_suffix(""), file.parent]
        )
        folder.mkdir(exist_ok=True)
        name = self._random.choice([file.name, file.name.upper(), f"{file.name}~", f"._{file.name}"])
        if not (folder / name).exists():
            shutil.copyfile(file, folder / name)
        return f"and a copy {(folder / name).relative_to(self._place)}"

    def _copy_the_space(self, file: Path) -> str:
        name = self._folder.name
        new = self._random.choice(
            [f"{name}.bak", f"{name}-copy", f".{name}", name.upper(), name[:-1] + "0", ".snapshot"]
        )
        shutil.copytree(self._folder, self._folder.with_name(new), dirs_exist_ok=True)
        return f"and a copy of the space, {new}"

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self._random.randrange(2**32))


_IN_A_DOCUMENT: list[Callable[[Mutator, Place], str]] = [
    Mutator._remove,
    Mutator._retype,
    Mutator._retype,
    Mutator._renumber,
    Mutator._renumber,
    Mutator._write_literal,
    Mutator._retext,
    Mutator._take_another_name,
    Mutator._take_another_name,
    Mutator._rename,
    Mutator._double,
    Mutator._exchange,
    Mutator._add,
]
_IN_AN_INDEX: list[Callable[[Mutator, Path], str]] = [
    Mutator._mutate_header,
    Mutator._mutate_header,
    Mutator._mutate_arrays,
    Mutator._mutate_arrays,
    Mutator._mutate_header_length,
    Mutator._mutate_size,
    Mutator._rename_index,
]
_AS_A_FILE: list[Callable[[Mutator, Path], str]] = [
    Mutator._flip,
    Mutator._cut,
    Mutator._delete,
    Mutator._make_a_folder,
    Mutator._make_a_pipe,
    Mutator._swap,
    Mutator._take_from_the_other_space,
    Mutator._copy_elsewhere,
    Mutator._copy_the_space,
]


def canonical_text(text: str) -> bytes:
    """A text of JSON with its literals."""
    text = re.sub(rf'"{_RAW}(\d+)"', lambda match: (_LITERALS + _NESTED)[int(match[1])], text)
    return text.replace(_AGAIN, "").encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[Place]:
    names = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for name in names:
        yield value, name
        yield from _places(value[name])


def _texts_in(place: Path) -> set[str]:
    """All texts of all documents, and all names of fields."""
    found: set[str] = set()
    for file in place.rglob("*.json"):
        if "data" not in file.parts and file.name != "index.json":
            for container, name in _places(json.loads(file.read_bytes())):
                found.update(each for each in (name, container[name]) if isinstance(each, str))
    return found


def _kind(name: object) -> str:
    """What a name looks like."""
    if not isinstance(name, str):
        return ""
    return "digits" + str(len(name)) if _HEXADECIMAL.fullmatch(name) else _NONCE.sub("N", name).partition("/")[0][:8]


def _age(file: Path) -> tuple[int, str]:
    """Sorts documents the same whatever their digests are."""
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, OSError):
        return 0, file.name
    return int(document.get("created_ns", 0) if isinstance(document.get("created_ns", 0), int) else 0), ""


def index_parts(content: bytes) -> tuple[Document, tuple[Any, Any, Any]]:
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[16 : 16 + length])
    start = 16 + length + -(16 + length) % 64
    count = header["keys"]
    return header, (
        np.frombuffer(content, "<u8", count, start),
        np.frombuffer(content, "<u4", count, start + 8 * count),
        np.frombuffer(content, "<u2", count, start + 12 * count),
    )


def index_content(header: Document, arrays: tuple[Any, Any, Any], *, keep_checksum: bool = False) -> bytes:
    """The file of an index, with the checksum that readers look for."""
    if "commits" in header and "keys" in header and not keep_checksum:
        covered = json.dumps([header["commits"], header["keys"]], separators=(",", ":"))
        checksum = int(google_crc32c.value(canonical_text(covered)))
        for array in arrays:
            checksum = google_crc32c.extend(checksum, array.tobytes())
        header["crc32c"] = checksum
    text = canonical_text(json.dumps(header, separators=(",", ":")))
    padding = bytes(-(16 + len(text)) % 64)
    return MAGIC + len(text).to_bytes(8, "little") + text + padding + b"".join(array.tobytes() for array in arrays)
