"""Kaizen's records as Kedro datasets."""

from kedro_kaizen.datasets.profile_dataset import ProfileDataset
from kedro_kaizen.datasets.record_dataset import RecordDataset

__all__ = ["ProfileDataset", "RecordDataset"]
