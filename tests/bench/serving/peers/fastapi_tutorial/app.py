"""The app that most tutorials show: a plain function, a dict in, a dict out.

Started as ``fastapi run app.py --port PORT``; MODEL_FILE names the model.
"""

import os

import joblib
import numpy as np
from fastapi import FastAPI

app = FastAPI()
model = joblib.load(os.environ["MODEL_FILE"])


@app.post("/predict")
def predict(features: dict[str, float]):
    row = np.array([list(features.values())])
    return {"prediction": int(model.predict(row)[0])}
