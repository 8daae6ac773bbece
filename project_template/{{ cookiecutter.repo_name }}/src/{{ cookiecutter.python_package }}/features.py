"""Feature work that travels inside the model: it takes rows as they are ingested."""

from __future__ import annotations

import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin


class Calendar(TransformerMixin, BaseEstimator):
    """Replace ``year, month, day`` by the day of the week, and clock readings (``hhmm``) by minutes after midnight."""

    def fit(self, X: pd.DataFrame, y: object = None) -> Calendar:
        self.is_fitted_ = True
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        dates = pd.to_datetime(X[["year", "month", "day"]].astype(int))
        return X.drop(columns=["year", "month", "day"]).assign(
            weekday=dates.dt.day_of_week.astype(float),
            sched_dep_time=_minutes(X["sched_dep_time"]),
            sched_arr_time=_minutes(X["sched_arr_time"]),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return True


def _minutes(clock: pd.Series) -> pd.Series:
    return clock // 100 * 60 + clock % 100
