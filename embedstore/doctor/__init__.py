"""What a lab needs to know of a place before it trusts a store to it.

`diagnosis` is the order of the page; each of its parts is a module: `contents` (the store itself), `storage` (its file
system, permissions and space, or what its URL allows) and `installation` (software, GPUs and weights of this machine).
"""

from embedstore.doctor.diagnosis import diagnose
from embedstore.doctor.findings import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
