"""`python -m embedstore` is the command `embedstore`. Nothing else of the library knows of the command line."""

from __future__ import annotations

import importlib

if __name__ == "__main__":  # worker processes import it, too
    importlib.import_module("embedstore_cli.main").run()
