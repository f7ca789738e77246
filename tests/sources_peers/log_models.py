"""Run in MLflow's own environment: log models and give each the alias ``champion``.

python log_models.py http://127.0.0.1:PORT
"""

import sys
from collections.abc import Callable
from typing import Any

import mlflow
import mlflow.onnx
import mlflow.sklearn
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input


def main() -> None:
    mlflow.set_tracking_uri(sys.argv[1])
    rows, labels = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(rows, labels)
    register("iris onnx", mlflow.onnx.log_model, to_onnx(model, rows[:1]))
    register("pickled", mlflow.sklearn.log_model, model, serialization_format="cloudpickle")
    register("function", mlflow.pyfunc.log_model, python_model=Echo())


def register(name: str, log: Callable[..., Any], *model: Any, **more: Any) -> None:
    with mlflow.start_run():
        log(*model, name="model", registered_model_name=name, **more)
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "1")


if __name__ == "__main__":
    main()
