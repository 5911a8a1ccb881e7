"""embedstore completion: what makes a shell complete commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """Shells that can be told how to complete."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Which one.", show_default=False)]) -> None:
    """Write the lines that make a shell complete commands and options.

    `embedstore --install-completion` adds them to the settings of the shell that you are in.
    """
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="embedstore", complete_var="_EMBEDSTORE_COMPLETE", shell=shell.value))
