"""What every test of the repository shares.

Hypothesis gives an example 200 ms by default: on a loaded machine that judges the machine.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("sluice", deadline=None)
settings.load_profile("sluice")
