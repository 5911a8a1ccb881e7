"""The examples of the guide page are well-formed, as far as that can be checked here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from embedstore.distributed import read_cluster_file
from embedstore_cli.main import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "clusters.md"


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def shell_of(example: str) -> str:
    """The command in three quotes of a Nextflow process or Snakemake rule, with a number for each placeholder."""
    found = re.search(r'"""\n(.*?)"""', example, flags=re.DOTALL)
    assert found is not None
    script = re.sub(r"(?<!\\)\$?\{[a-z.]+\}", "7", found[1])
    return script.replace("\\$", "$").replace("\\\\", "\\")


def test_shell_examples_parse() -> None:
    scripts = examples("bash") + [shell_of(example) for example in examples("groovy") + examples("python")[:1]]
    assert len(scripts) == 5
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        assert "{" not in script.replace("${SLURM", "")


def test_python_examples_compile() -> None:
    snakemake, library = examples("python")
    assert "rule fill:" in snakemake
    compile(library, "example", "exec")


def test_nextflow_example_is_balanced() -> None:
    (script,) = examples("groovy")
    for opening, closing in ("{}", "()", "[]"):
        assert script.count(opening) == script.count(closing)


def test_the_cluster_file_is_taken(tmp_path: Path) -> None:
    (text,) = examples("yaml")
    (tmp_path / "slurm.yaml").write_text(text)
    cluster = read_cluster_file(tmp_path / "slurm.yaml")
    assert (cluster.kind, cluster.minimum, cluster.maximum) == ("slurm", 0, 40)
    jobs: Any = pytest.importorskip("dask_jobqueue.slurm")
    script = jobs.SLURMJob("tcp://here:8786", name="1", processes=1, **cluster.options).job_script()
    assert "#SBATCH --gres=gpu:1" in script
    assert "export HF_HOME=/lab/weights" in script
    assert "--lifetime 225m" in script


def test_the_options_exist() -> None:
    known = {option for parameter in get_command(app).commands["fill"].params for option in parameter.opts}
    for text in examples("bash") + examples("groovy") + examples("python")[:1]:
        for command in re.findall(r"embedstore fill (?:[^\n]*\\\n)*[^\n]*", text):
            assert set(re.findall(r"--[a-z-]+", command)) <= known
