"""embedstore models: list the models that have a name."""

from __future__ import annotations

from embedstore_cli import options


def models(json: options.Json = False) -> None:
    """List the models that have a name.

    A directory with a checkpoint of their kind is a model, too.
    """
    from embedstore.models.registry import MODELS
    from embedstore_cli.output import count, write_json, write_table

    specs = list(MODELS.values())
    if json:
        fields = (
            "name",
            "molecule",
            "dim",
            "layers",
            "precision",
            "max_length_tokens",
            "needs",
            "repository",
            "revision",
        )
        write_json([{field: getattr(spec, field) for field in fields} for spec in specs])
        return
    write_table(
        ("name", "molecule", ">dim", "precision", ">max length", "needs"),
        (
            [
                spec.name,
                spec.molecule,
                count(spec.dim),
                spec.precision,
                "–" if spec.max_length_tokens is None else count(spec.max_length_tokens),
                spec.needs,
            ]
            for spec in specs
        ),
    )
