"""Kedro's settings. The defaults do; https://docs.kedro.org lists what can be set."""
