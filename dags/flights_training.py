"""Trains, measures, promotes and deploys, because a decision to retrain is open."""

from kaizen_airflow import TrainingDag

dag = TrainingDag("flights/conf/base/kaizen.yml")
