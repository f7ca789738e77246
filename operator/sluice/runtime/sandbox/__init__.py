"""Walls around a model: what its code, or a fault in a parser, could do outside is not there.

``confine`` is the way in, called by ``sluice serve`` and by the gates' process.  Linux only; calls
the kernel through ctypes and imports nothing heavy: it has to act before numpy starts threads.
"""
