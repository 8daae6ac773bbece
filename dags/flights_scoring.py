"""Predicts the flights that the champion has not seen."""

from kaizen_airflow import ScoringDag

dag = ScoringDag("flights/conf/base/kaizen.yml")
