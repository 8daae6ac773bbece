"""webhook: a sentence about a task to an address that takes JSON with ``text``, as chat tools do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from airflow.sdk import BaseHook, BaseNotifier

from kaizen.errors import UsageError

if TYPE_CHECKING:
    from airflow.sdk import Context

_TIMEOUT = 10


class WebhookNotifier(BaseNotifier):
    """Posts ``{"text": ...}``; for ``on_success_callback`` and ``on_failure_callback`` of DAGs and operators.

    Args:
        webhook_conn_id: connection whose password is the whole address (it is a secret), with http or https.
        text: what to say; templated.
    """

    template_fields = ("webhook_conn_id", "text")

    def __init__(
        self,
        webhook_conn_id: str,
        text: str = "{{ dag.dag_id }}: {{ task_instance.task_id if task_instance else '' }} of run {{ run_id }}",
    ) -> None:
        super().__init__()
        self.webhook_conn_id, self.text = webhook_conn_id, text

    def notify(self, context: Context) -> None:
        """Send it. Raises ``UsageError`` (KZ242) for an address that is none, ``URLError`` if nobody answers."""
        address = str(BaseHook.get_connection(self.webhook_conn_id).password or "")
        if not address.startswith(("http://", "https://")):
            raise UsageError(
                "KZ242",
                "connection holds no address to notify",
                where=f"connection {self.webhook_conn_id}",
                value="a password that is no http address" if address else "no password",
                limit="the webhook's http(s) address as the password",
                action="put the address into the password field",
            )
        body: dict[str, Any] = {"text": self.text}
        request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
        urlopen(request, timeout=_TIMEOUT).close()  # noqa: S310 -- the scheme was looked at
