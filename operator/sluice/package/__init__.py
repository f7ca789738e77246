"""The model package: manifest, digest, content sniffing, conversion and parity, trust classes."""

import os

# ONNX Runtime's official builds send usage events to their maker and keep a database in the home
# directory, unless this is set before the library is first imported.  A model server does neither.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
