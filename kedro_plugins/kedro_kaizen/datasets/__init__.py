"""Kaizen's records and tables as Kedro datasets."""

from kedro_kaizen.datasets.profile_dataset import ProfileDataset
from kedro_kaizen.datasets.record_dataset import RecordDataset
from kedro_kaizen.datasets.table_dataset import TableDataset

__all__ = ["ProfileDataset", "RecordDataset", "TableDataset"]
