"""Pipelines that this project wrote itself."""
