"""LitServe as its documentation has it: setup, decode, predict, encode.

Started as ``python server.py MODEL PORT``.
"""

import sys

import joblib
import litserve


class SklearnAPI(litserve.LitAPI):
    """One model in one worker."""

    def setup(self, device):
        self.model = joblib.load(sys.argv[1])

    def decode_request(self, request):
        return request["input"]

    def predict(self, x):
        return self.model.predict(x)

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(SklearnAPI(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
