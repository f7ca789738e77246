"""BentoML as its documentation has it: a class with an API method.

Started as ``bentoml serve service:Sklearn --port PORT``; MODEL_FILE names the model.
"""

import os

import bentoml
import joblib
import numpy as np


@bentoml.service
class Sklearn:
    """One model, one method."""

    def __init__(self):
        self.model = joblib.load(os.environ["MODEL_FILE"])

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.predict(rows)
