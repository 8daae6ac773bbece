"""The project's own training: examples in, fitted model out."""

from __future__ import annotations

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

from {{ cookiecutter.python_package }}.features import Calendar

CATEGORIES = ["carrier", "origin", "dest", "planes_engine"]


def fit(examples: pd.DataFrame, training: dict) -> Pipeline:
    """Fit gradient-boosted trees on the feature columns; ``late`` is the label."""
    features, label = examples.drop(columns="late"), examples["late"].astype(int)
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    columns = ColumnTransformer(
        [("categories", encode, CATEGORIES)], remainder="passthrough", verbose_feature_names_out=False
    )
    # Ordinal codes instead of `categorical_features`: that would put a function, not only data, into the stored model.
    trees = HistGradientBoostingClassifier(categorical_features=None, early_stopping=False, **training)
    return Pipeline([("calendar", Calendar()), ("columns", columns), ("trees", trees)]).fit(features, label)
