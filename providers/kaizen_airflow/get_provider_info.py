"""What Airflow asks of a provider: plain facts, and no import."""

from __future__ import annotations

from typing import Any

_STAGES = ("ingest", "validate", "train", "evaluate", "promote", "deploy", "score", "monitor", "trigger", "reconcile")


def get_provider_info() -> dict[str, Any]:
    """The provider in the terms of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "kaizen-mlops",
        "name": "Kaizen",
        "description": "The machine-learning loop: ingest, validate, train, evaluate, promote, deploy, score, monitor, "
        "trigger.",
        "operators": [
            {
                "integration-name": "Kaizen",
                "python-modules": [
                    f"kaizen_airflow.operators.{stage}" for stage in (*_STAGES, "stage", "planned", "docker")
                ],
            }
        ],
        "hooks": [{"integration-name": "Kaizen", "python-modules": ["kaizen_airflow.hooks.kaizen"]}],
        "triggers": [
            {
                "integration-name": "Kaizen",
                "python-modules": [f"kaizen_airflow.triggers.{name}" for name in ("landing", "container")],
            }
        ],
        "connection-types": [
            {
                "connection-type": "kaizen",
                "hook-class-name": "kaizen_airflow.hooks.kaizen.KaizenHook",
                "hook-name": "Kaizen",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "port", "schema", "login"],
                    "relabeling": {"password": "Ledger password"},
                    "placeholders": {},
                },
                "conn-fields": _CONNECTION_FIELDS,
            }
        ],
        "extra-links": [
            "kaizen_airflow.links.stage.TrackingRunLink",
            "kaizen_airflow.links.stage.ReportLink",
            "kaizen_airflow.links.stage.DataReportLink",
        ],
        "notifications": ["kaizen_airflow.notifications.webhook.WebhookNotifier"],
        "config": {"kaizen": {"description": "The loop on this Airflow.", "options": _OPTIONS}},
    }


_CONNECTION_FIELDS = {
    "ledger": {
        "label": "Ledger URL",
        "description": "postgresql://USER@HOST/DATABASE; its password goes into its own field. Empty: the spec's own.",
        "schema": {"type": ["string", "null"]},
    },
    "tracking": {
        "label": "MLflow tracking URI",
        "description": "http://HOST:5000 or a database. Empty: the spec's own.",
        "schema": {"type": ["string", "null"]},
    },
    "home": {
        "label": "Home",
        "description": "The folder of data, models and reports that every worker reaches. Empty: the spec's own.",
        "schema": {"type": ["string", "null"]},
    },
}
_OPTIONS = {
    "projects": {
        "description": "Folder below which relative paths of specs lie. Empty: AIRFLOW_HOME.",
        "version_added": "0.2.0",
        "type": "string",
        "example": "/opt/loops",
        "default": "",
    },
    "landing_poll": {
        "description": "Seconds between two looks for files that landed.",
        "version_added": "0.2.0",
        "type": "float",
        "example": None,
        "default": "5.0",
    },
    "reports": {
        "description": "Folder of the loops' newest reports, which the API server shows. Empty: kaizen-reports in "
        "AIRFLOW_HOME.",
        "version_added": "0.2.0",
        "type": "string",
        "example": None,
        "default": "",
    },
    "preload": {
        "description": "Import the stages' libraries once, in the process that forks task processes (scheduler with "
        "LocalExecutor), so that tasks start warm.",
        "version_added": "0.2.0",
        "type": "boolean",
        "example": None,
        "default": "False",
    },
}
