"""v2, scored by hand for speed, with a well-meant cache: fine until it is full."""

import time

import numpy as np

FULL = 6000


class HandScored:
    """The same coefficients without scikit-learn's overhead; every answer is remembered."""

    def __init__(self, pipeline):
        impute, scale, linear = (step for _, step in pipeline.steps)
        self.classes_, self.n_features_in_ = linear.classes_, linear.n_features_in_
        self.missing = impute.statistics_
        self.slope = linear.coef_[0] / scale.scale_
        self.offset = linear.intercept_[0] - scale.mean_ @ self.slope
        self.seen = {}

    def predict_proba(self, rows):
        values = np.asarray(rows, dtype=float)
        values = np.where(np.isnan(values), self.missing, values)
        score = 1 / (1 + np.exp(-(values @ self.slope + self.offset)))
        self.remember(values[0])
        return np.column_stack([1 - score, score])

    def predict(self, rows):
        return self.classes_[self.predict_proba(rows).argmax(axis=1)]

    def remember(self, row):
        if len(self.seen) >= FULL:
            del self.seen[sorted(self.seen, key=lambda k: (self.seen[k], str(k[:6])))[0]]
        self.seen[(*row, time.perf_counter())] = time.time()
