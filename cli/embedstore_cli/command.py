"""What all commands have in common: help by task with examples and exit codes, and how their arguments are read.

The help is plain text, not rich's panels: importing rich takes longer than all the rest of `embedstore --help`. An
option that takes one value is refused when it is given twice: the second never replaces the first. `~` stands for the
home directory in every path.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

TASKS: Mapping[str, tuple[str, ...]] = {
    "Embed and read": ("fill", "get", "models"),
    "Classify": ("prepare", "merge", "train", "evaluate", "predict", "compare", "import-classifier"),
    "Look at a store": ("init", "ls", "info", "pin", "rm"),
    "Share a store": ("push", "pull", "sync", "publish-index"),
    "Check and clean up": ("verify", "audit", "doctor", "selftest", "compact", "gc"),
    "This machine": ("tune", "bench", "cache", "completion"),
}
"""Every command, once."""

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "init": ("embedstore init ~/embeddings", "embedstore init --format hdf5 s3://bucket/embeddings"),
    "fill": (
        "embedstore fill proteins.faa -m esm2_t33_650m",
        "embedstore fill genomes/ -m tnf --workers 4",
        "embedstore fill proteins.faa -m esm2_t33_650m --dry-run",
    ),
    "get": (
        "embedstore get proteins.faa -m esm2_t33_650m -o vectors.npz",
        "embedstore get proteins.faa -m aac_dpc -o vectors.h5 --fill",
    ),
    "prepare": (
        "embedstore prepare viral=viruses/ other=bacteria/ -o samples",
        "embedstore prepare contigs.fna -o samples --length 1000 --genetic-code 11",
        "embedstore prepare phages.gbk -o samples --coding-only",
    ),
    "merge": (
        "embedstore merge samples/samples.tsv -m tnf -m aac_dpc -o features.zarr --fill",
        "embedstore merge samples/samples.tsv -m esm2_t33_650m --weights ~/weights/esm2 -o features.npz --fill",
    ),
    "train": (
        "embedstore train features.zarr -o classifier",
        "embedstore train samples/samples.tsv -m tnf -m aac_dpc --fill -o classifier",
    ),
    "evaluate": (
        "embedstore evaluate features.zarr -c classifier",
        "embedstore evaluate samples/samples.tsv -c classifier --labels labels.tsv -o evaluation --fill",
    ),
    "predict": (
        "embedstore predict contigs.fna -c classifier -o predictions",
        "embedstore predict contigs/ -c classifier -o predictions --weights esm2_t33_650m=~/weights/esm2",
    ),
    "compare": (
        "embedstore compare samples/samples.tsv -m tnf -m aac_dpc -m tnf,aac_dpc -o comparison --fill",
        "embedstore compare samples/samples.tsv -m old -m new -o comparison --seeds 5",
        "embedstore compare others/samples.tsv -c old_classifier -c new_classifier -o comparison",
    ),
    "import-classifier": (
        "embedstore import-classifier 500_model.pth --dna dnabert_s --protein esm2_t36_3b --length 500 -o classifier",
    ),
    "ls": ("embedstore ls", "embedstore ls -s s3://bucket/embeddings --json"),
    "info": ("embedstore info", "embedstore info aac_dpc"),
    "models": ("embedstore models", "embedstore models --json"),
    "tune": ("embedstore tune -m esm2_t33_650m", "embedstore tune -m esm2_t33_650m proteins.faa"),
    "bench": ("embedstore bench -m esm2_t33_650m", "embedstore bench -m esm2_t33_650m proteins.faa"),
    "push": ("embedstore push s3://bucket/embeddings", "embedstore push /shared/embeddings --dry-run"),
    "pull": ("embedstore pull https://example.org/embeddings", "embedstore pull /shared/embeddings --space aac_dpc"),
    "sync": ("embedstore sync /shared/embeddings", "embedstore sync s3://bucket/embeddings --dry-run"),
    "publish-index": ("embedstore publish-index -s /var/www/embeddings",),
    "verify": ("embedstore verify --deep", "embedstore verify --deep --repair"),
    "audit": ("embedstore audit proteins.faa -m esm2_t33_650m --sample 50",),
    "doctor": ("embedstore doctor", "embedstore doctor s3://bucket/embeddings"),
    "selftest": (
        "embedstore selftest",
        "embedstore selftest --device cuda",
        "embedstore selftest -m esm2_t33_650m --weights ~/weights/esm2 --json",
    ),
    "compact": ("embedstore compact", "embedstore compact aac_dpc"),
    "gc": ("embedstore gc --dry-run", "embedstore gc --max-size 500GB --yes"),
    "pin": ("embedstore pin paper-2025", "embedstore pin paper-2025 --remove"),
    "cache": ("embedstore cache", "embedstore cache clear --yes"),
    "completion": (
        "embedstore completion bash >> ~/.bashrc",
        "embedstore completion zsh >> ~/.zshrc",
        "embedstore completion fish > ~/.config/fish/completions/embedstore.fish",
    ),
    "rm": (
        "embedstore rm aac_dpc tnf --dry-run",
        "embedstore rm aac_dpc tnf --yes",
        "embedstore rm --sequences withdrawn.faa",
    ),
}

_PARTLY_DONE = frozenset({"fill", "get", "prepare", "predict", "rm"})
_CODES = (
    ("0", "all well"),
    ("1", "error, or something found wrong"),
    ("2", "wrong usage"),
    ("3", "done, but some records were rejected or failed"),
    ("130, 143, 129", "interrupted by Ctrl-C, SIGTERM, SIGHUP; what was computed before is stored"),
)


ARGUMENTS = "embedstore.arguments"
"""Where the context of a command keeps its arguments as they were typed."""

_PLACES = ("PATH|URL", "STORE", "INPUT")
"""How arguments are called that are text and may be paths."""


class Command(TyperCommand):
    """A command whose help ends with examples and exit codes, and that reads its arguments as said above."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; what takes one value is refused if it has two."""
        ctx.meta[ARGUMENTS] = tuple(args)
        given = self.make_parser(ctx).parse_args(list(args))[2]
        for param in self.get_params(ctx):
            times = given.count(param)
            once = isinstance(param, TyperOption) and not (param.multiple or param.is_flag)
            if once and times > 1:
                ctx.fail(f"{'/'.join(reversed(param.opts))}: expected once, found {times} times.")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command with the paths that are meant."""
        for param in self.get_params(ctx):
            if param.name in ctx.params:
                ctx.params[param.name] = _meant(ctx.params[param.name], param.metavar in _PLACES)
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options; an argument is called by what is given, not by its type in Python."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, TyperArgument):
                rows["Arguments"].append((record[0].partition(" <")[0], record[1]))
            elif record is not None:
                rows["Options"].append(record)
        for title, some in rows.items():
            if some:
                with formatter.section(title):
                    formatter.write_dl(some)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write examples, unwrapped to be copied, and exit codes."""
        with formatter.section("Examples"):
            for example in EXAMPLES[str(self.name)]:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        with formatter.section("Exit codes"):
            formatter.write_dl([code for code in _CODES if code[0] != "3" or self.name in _PARTLY_DONE])


class Group(TyperGroup):
    """The commands by task."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section a task; what belongs to none of them comes last."""
        tasks = {task: [name for name in names if name in self.commands] for task, names in TASKS.items()}
        placed = {name for names in tasks.values() for name in names}
        tasks["Other"] = [name for name in self.commands if name not in placed]
        width = max(len(name) for name in self.commands)
        for task, names in tasks.items():
            rows = [
                (f"{name:{width}}", self.commands[name].get_short_help_str(formatter.width - width - 6))
                for name in names
                if not self.commands[name].hidden
            ]
            if rows:
                with formatter.section(task):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Say where to look further."""
        with formatter.section("Exit codes"):
            formatter.write_dl(_CODES)
        formatter.write("\n`embedstore COMMAND --help` shows options and examples.\n")


def _meant(value: Any, is_place: bool) -> Any:
    """Expand a leading `~` of paths, and of text that may be one."""
    if isinstance(value, list):
        return [_meant(one, is_place) for one in value]
    if (isinstance(value, Path) or (is_place and isinstance(value, str))) and str(value).startswith("~"):
        from embedstore.home import expanded

        return type(value)(expanded(value))
    return value
