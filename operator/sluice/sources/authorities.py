"""Certificate authorities to trust beside the system's: a server in one's own network has its own.

Called by every source that speaks TLS.  A Secret reaches the fetching container as environment
variables, so the certificates themselves can be given there, not only a file's name.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

from sluice.errors import SourceError

VARIABLE = "SLUICE_CA_CERTIFICATES"

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def extra_authorities(*file_variables: str) -> str | None:
    """PEM certificates from the environment; None when there are none.

    ``file_variables`` name files too, the first that is set.  Raises SourceError for text or a file
    without a certificate: going on without it would only fail later, as an untrusted server.
    """
    found = [text for text in (_text(), _file(*file_variables)) if text]
    return "\n".join(found) or None


def _text() -> str | None:
    text = os.environ.get(VARIABLE, "")
    return _certificates(text, VARIABLE) if text.strip() else None


def _file(*variables: str) -> str | None:
    for variable in variables:
        if path := os.environ.get(variable):
            try:
                text = Path(path).read_text("ascii", "replace")
            except OSError as error:
                raise SourceError(
                    f"The certificate file {path} cannot be read: {error.strerror}.",
                    hint=f"Correct {variable}.",
                    reason="AccessDenied",
                ) from error
            return _certificates(text, variable)
    return None


def _certificates(text: str, variable: str) -> str:
    found = _CERTIFICATE.findall(text)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="\n".join(found))
    except (ValueError, ssl.SSLError):
        found = []
    if not found:
        raise SourceError(
            f"{variable} holds no PEM certificate that can be read.",
            hint="Give certificates as text, from -----BEGIN CERTIFICATE----- to the end line.",
            reason="AccessDenied",
        )
    return "\n".join(found)
