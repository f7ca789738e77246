"""Fetching and publishing by URI: file, pvc, http(s), s3.

Called by ``sluice.jobs`` and the CLI.  Knows bytes and addresses, never what a package is: which
files to ask for, and whether they are the right ones, is the caller's business.
"""

from sluice.sources.address import Address, parse
from sluice.sources.base import Destination, Reader, Source
from sluice.sources.registry import open_destination, open_source
from sluice.sources.transfer import Budget, Transferred, copy_to_file

__all__ = [
    "Address",
    "Budget",
    "Destination",
    "Reader",
    "Source",
    "Transferred",
    "copy_to_file",
    "open_destination",
    "open_source",
    "parse",
]
