"""What somebody who measures would write: async, msgspec for JSON, ONNX Runtime, no access log.

Started as ``uvicorn app:app --port PORT --no-access-log``; MODEL_FILE names the ONNX file, which is
the very one that our package has.
"""

import os

import msgspec
import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL_FILE"], options)
given = session.get_inputs()[0].name
scores = session.get_outputs()[0].name
app = FastAPI()


class Rows(msgspec.Struct):
    instances: list[list[float]]


decoder = msgspec.json.Decoder(Rows)
encoder = msgspec.json.Encoder()


@app.post("/predict")
async def predict(request: Request) -> Response:
    rows = np.array(decoder.decode(await request.body()).instances)
    found = session.run([scores], {given: rows})[0]
    answer = {"predictions": found.argmax(axis=1).tolist()}
    return Response(encoder.encode(answer), media_type="application/json")
