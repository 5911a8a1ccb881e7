"""What a failure of an object store means, said plainly: the library below names it in a text, with all that was sent.

Only what is found here by a pattern is passed on, or the first line, without credentials.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from obstore import exceptions

from embedstore.store.certificates import ADVICE as CERTIFICATE_ADVICE
from embedstore.store.clouds import ADDRESSES, CONTAINERS, SOURCES
from embedstore.store.redaction import redacted

_LASTING = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
)
_STATUS = re.compile(r"status code: (\d+ [A-Za-z ]+)")
_BUSY = ("408", "409", "429")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_HOST = re.compile(r"Error performing \w+ https?://([^/\s?]+)")
_NO_CONTAINER = ("<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>", "The specified bucket does not exist")
_NO_RANGES = "Received non-partial response"
# Where libraries look for credentials when nothing names any.
_METADATA_SERVICES = ("169.254.169.254", "169.254.170.2", "/latest/api/token", "metadata.google.internal")


def explained(scheme: str, action: str, error: Exception, secrets: Collection[str]) -> tuple[str, str]:
    """Return what went wrong and what to do.

    Parameters
    ----------
    action : what was tried: read, write, list …, or `use` for the settings.
    secrets : credentials that are not in the environment.
    """
    text = str(error)
    if of_container(error, action):
        return f"there is no such {CONTAINERS[scheme]}", f"Make it, or check the address ({ADDRESSES[scheme]})."
    if isinstance(error, exceptions.InvalidPathError):
        said = ascii(text.partition("\n\nDebug source")[0].rpartition("path: ")[2][:200])
        return f"a key that is no path lies there ({said})", (
            f"Delete it with the tool that wrote it, or give the store a {CONTAINERS[scheme]} of its own."
        )
    if any(host in text for host in _METADATA_SERVICES):
        return "found no credentials", f"They come from {SOURCES[scheme]}."
    connection = _connection(scheme, text)
    if connection is not None:
        return connection
    secret_free = redacted(text.partition("\n\nDebug source")[0], secrets)
    facts = [found[1].strip() for pattern in (_STATUS, _CODE) if (found := pattern.search(secret_free))]
    said = ", ".join(facts) or secret_free.partition("\n")[0].rpartition(" - ")[2][:300]
    if said.startswith(("401", "403")):
        return said, f"Check the credentials and what they may do; they come from {SOURCES[scheme]}."
    if action == "use":
        return said, f"Check the settings: {SOURCES[scheme]}; {ADDRESSES[scheme]}."
    return said, f"Try again; if it stays, check the network and the address ({ADDRESSES[scheme]})."


def passes(error: Exception) -> bool:
    """Tell whether a failure may be gone next time."""
    text = str(error)
    status = _STATUS.search(text)
    refused = status is not None and status[1].startswith("4") and not status[1].startswith(_BUSY)
    lasting = refused or isinstance(error, (FileNotFoundError, *_LASTING)) or _CERTIFICATE.search(text) is not None
    return not lasting and not any(host in text for host in _METADATA_SERVICES)


def of_container(error: Exception, action: str) -> bool:
    """Tell whether it is the bucket or container that is not there; an empty folder is listed, so none is missing."""
    text = str(error)
    unlisted = action == "list" and "status code: 404" in text
    return unlisted or any(sign in text for sign in _NO_CONTAINER)


def of_ranges(error: Exception) -> bool:
    """Tell whether a server that was asked for a range sent all of the file."""
    return _NO_RANGES in str(error)


def _connection(scheme: str, text: str) -> tuple[str, str] | None:
    """What went wrong before anything was answered."""
    found = _HOST.search(text)
    host = found[1].rpartition("@")[2] if found else "the server"
    address = f"Check the address ({ADDRESSES[scheme]}) and the network."
    certificate = _CERTIFICATE.search(text)
    if certificate is not None:
        return f"the certificate of {host} is not trusted ({certificate[1]})", CERTIFICATE_ADVICE
    if "No CA certificates were loaded" in text:
        return "no certificates of authorities were found", CERTIFICATE_ADVICE
    if "ProxyAuthRequired" in text or "ConnectFailed(" in text:
        proxy = "HTTPS_PROXY and HTTP_PROXY; NO_PROXY lists hosts that are reached without"
        return f"the proxy does not let through to {host}", f"Check {proxy}."
    if "InvalidMessage(" in text or "InvalidContentType" in text:
        return f"{host} does not speak TLS", f"Check the address ({ADDRESSES[scheme]}): https or http?"
    if "dns error" in text:
        return f"no connection to the server: no address is known for the name {host} (DNS)", address
    if "kind: Connect" in text:
        refused = "refused" if "ConnectionRefused" in text else "not made"
        return f"no connection to the server: a connection to {host} was {refused}", address
    if "kind: Timeout" in text:
        return f"{host} did not answer in time", f"Try again; if it stays: {address}"
    return None
