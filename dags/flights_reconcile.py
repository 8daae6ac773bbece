"""Mends what killed processes and lost events left behind."""

from kaizen_airflow import ReconcileDag

dag = ReconcileDag("flights/conf/base/kaizen.yml")
