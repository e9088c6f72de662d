"""Writes logistic_reference.json: scikit-learn's LogisticRegression on a few random problems.

Needs scikit-learn. Samples are drawn as tests/logistic_regression_test.cpp draws them.
Usage: python make_logistic_reference.py > logistic_reference.json
"""
import json

import numpy
from sklearn.linear_model import LogisticRegression

from philox import Random

WIDTH = 5
CASES = [(classes, C) for classes in (2, 3, 7) for C in (0.01, 1.0, 30.0)]


def samples(classes, count=20):
    random = Random(11, f"{classes} classes")
    labels, rows = [], []
    for _ in range(count * classes):
        labels.append(random.below(classes))
        rows.append([random.uniform(-2, 2) + (c == labels[-1]) for c in range(WIDTH)])
    return numpy.array(rows), labels


def values(classes, C):
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(*samples(classes))
    return dict(classes=classes, C=C, weight=model.coef_.flatten().tolist(), bias=model.intercept_.tolist())


print(json.dumps([values(*case) for case in CASES], indent=1))
