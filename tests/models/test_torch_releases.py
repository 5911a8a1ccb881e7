"""What is used of torch that it does not promise: the same in the lowest and the highest release that we support.

Every wheel carries the list of all operators from which it was generated. It is read out of the smallest one, that for
macOS, which need not be installed. Where a release cannot be had, the test is skipped and says so.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

LOWEST, HIGHEST = "2.6.0", "2.14.1"
"""That of pyproject.toml, and the latest that could be had when this was written."""

_OPERATORS = "torchgen/packaged/ATen/native/native_functions.yaml"
_TIMEOUT_S = 600

FLASH_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, Tensor? cum_seq_k, SymInt max_q, SymInt max_k, "
    "float dropout_p, bool is_causal, bool return_debug_mask, *, "
)
"""Those that we give, by position; everything after them has a default."""


def problems_of_flash(schema: str) -> list[str]:
    """Say what of the operator's schema does not fit our call."""
    found = re.fullmatch(r"(?:aten::)?_flash_attention_forward\((.*)\) -> \((.*)\)", schema)
    if found is None:
        return [f"unreadable: {schema}"]
    arguments, results = found.groups()
    problems = []
    if not arguments.startswith(FLASH_ARGUMENTS):
        problems.append(f"arguments: {arguments}")
    rest = arguments.removeprefix(FLASH_ARGUMENTS)
    problems += [f"no default: {each}" for each in rest.split(", ") if "=" not in each]
    if not results.startswith("Tensor output, "):
        problems.append(f"results: {results}")
    return problems


def test_the_installed_torch_has_the_flash_operator_that_we_call() -> None:
    assert problems_of_flash(str(torch.ops.aten._flash_attention_forward.default._schema)) == []


def test_a_changed_schema_is_noticed() -> None:
    schema = str(torch.ops.aten._flash_attention_forward.default._schema)
    for change in (
        schema.replace("SymInt max_q, ", ""),
        schema.replace("*, float? scale=None", "*, float? scale"),
        schema.replace("Tensor output, Tensor softmax_logsumexp", "Tensor softmax_logsumexp, Tensor output"),
        schema.replace("_flash_attention_forward", "_flash_attention"),
    ):
        assert problems_of_flash(change)


@pytest.mark.slow
@pytest.mark.parametrize("release", [LOWEST, HIGHEST])
def test_the_flash_operator_that_we_call_is_in_the_release(release: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    platforms = [word for version in ("11_0", "14_0") for word in ("--platform", f"macosx_{version}_arm64")]
    wanted = ["--python-version", "311", *platforms, "--dest", str(tmp_path), f"torch=={release}"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    wheels = list(tmp_path.glob("torch-*.whl"))
    if not wheels:
        pytest.skip(f"torch {release} cannot be had here: {done.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        operators = wheel.read(_OPERATORS).decode()
    (schema,) = re.findall(r"^- func: (_flash_attention_forward\(.*)$", operators, re.MULTILINE)
    assert problems_of_flash(schema) == []
    for name in ("segment_reduce(Tensor data, str reduce, *, Tensor? lengths=None", "gelu_(Tensor(a!) self"):
        assert f"- func: {name}" in operators
