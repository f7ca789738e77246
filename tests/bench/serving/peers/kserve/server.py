"""KServe's sklearn server, which is not on the package index: the same few lines on its SDK.

Started as ``python server.py --model_name m --http_port PORT --model_file FILE``; the options but
the last are KServe's own.
"""

import argparse

import joblib
from kserve import Model, ModelServer, model_server
from kserve.utils.utils import get_predict_input, get_predict_response


class SklearnModel(Model):
    """What sklearnserver does: the SDK's own reading and writing around ``predict``."""

    def __init__(self, name, file):
        super().__init__(name)
        self.file = file
        self.ready = False

    def load(self):
        self.model = joblib.load(self.file)
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):
        return get_predict_response(
            payload, self.model.predict(get_predict_input(payload)), self.name
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("--model_file", required=True)
    options, _ = parser.parse_known_args()
    model = SklearnModel(options.model_name, options.model_file)
    model.load()
    ModelServer().start([model])
