"""Statistics of canaries and watches on numpy and scipy only.

Pure: state in, state out.  A look is a value; nothing here knows where it came from."""
