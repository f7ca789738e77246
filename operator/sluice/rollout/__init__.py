"""The decision: (spec, durable state, observation, now) -> Decision.

Pure: no I/O, no clock, no logging.  Called by sluice.controller; may call sluice.api and
sluice.stats.
"""
