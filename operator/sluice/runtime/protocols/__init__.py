"""One file per protocol: a body -> rows, predictions -> a body.  Pure; no sockets, no counters."""
