"""Reading sequences from files."""

from embedstore.sequences.reading import read

__all__ = ["read"]
