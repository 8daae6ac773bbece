"""Takes the flights' months as they land, and gives each its verdict."""

from kaizen_airflow import IngestDag

dag = IngestDag("flights/conf/base/kaizen.yml")
