"""Looks after the champion, and decides whether to retrain it."""

from kaizen_airflow import MonitoringDag

dag = MonitoringDag("flights/conf/base/kaizen.yml")
