"""Which certificate authorities are trusted beside the system's, and what to say when a certificate is not.

`SSL_CERT_FILE` and `SSL_CERT_DIR` stand in place of the system's, which both libraries that we use read by themselves.
`AWS_CA_BUNDLE`, `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE`, which other tools read, come in addition: the first that is
set.
"""

from __future__ import annotations

import os
from pathlib import Path

from embedstore.errors import StorageError

_ADDED = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_MOST_BYTES = 16 << 20  # all that browsers trust take a quarter of a megabyte

ADVICE = (
    "If it is signed by an authority of your own, name the file of that authority's certificate (PEM) in "
    "SSL_CERT_FILE, or in AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE beside the system's."
)


def added_authorities() -> str | None:
    """Return the certificates (PEM) of the authorities that the environment adds; None where it adds none.

    Raises
    ------
    StorageError : a variable names no such file, or one without certificates.
    """
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if os.environ.get(variable) and not Path(os.environ[variable]).exists():
            raise _unusable(variable, "it is not there")
    variable = next((name for name in _ADDED if os.environ.get(name)), "")
    if not variable:
        return None
    place = Path(os.environ[variable])
    try:
        files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
        if sum(file.stat().st_size for file in files) > _MOST_BYTES:
            raise _unusable(variable, f"expected at most {_MOST_BYTES >> 20} MiB of certificates, found more")
        contents = [content for file in files if _BEGIN in (content := file.read_bytes())]
        text = b"\n".join(contents).decode("utf-8")
    except OSError as error:
        raise _unusable(variable, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _unusable(variable, "expected text (PEM), found bytes") from None
    if not text:
        raise _unusable(variable, "expected certificates (PEM), found none")
    return text


def _unusable(variable: str, reason: str) -> StorageError:
    return StorageError(
        f"Cannot read the certificates in {os.environ[variable]}, which {variable} names: {reason}. "
        "Name a file of certificates (PEM), or unset the variable."
    )
