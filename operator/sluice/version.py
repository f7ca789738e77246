"""The version, where every room may read it without reaching for ``sluice.save``."""

__version__ = "0.1.0"
