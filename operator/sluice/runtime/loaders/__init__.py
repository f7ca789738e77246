"""One file per format: bytes of a verified package -> a Predictor."""
