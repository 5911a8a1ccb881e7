"""What a lab needs to know of a place before it trusts a store to it.

`diagnosis` is the order of the page; each of its parts is a module: `contents` (the store itself), `mounts` and
`probes` (its file system), `access` (permissions and room), `remote` (behind a URL), `software` and `weights` (this
machine).
"""

from embedstore.doctor.diagnosis import diagnose
from embedstore.doctor.findings import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
