"""How a task and its trigger reach the same engine, and what both ask of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from airflow.providers.docker.hooks.docker import DockerHook

from kaizen.adapters.docker_engine import Engine

if TYPE_CHECKING:
    from docker import APIClient


@dataclass(frozen=True)
class EngineAddress:
    """An engine as the Docker provider's operator is told of it; see there for the fields.

    It holds no secret: certificates by their paths, a registry's login by the id of its connection.
    """

    docker_url: str | list[str]
    docker_conn_id: str | None
    api_version: str | None
    tls_ca_cert: str | None
    tls_client_cert: str | None
    tls_client_key: str | None
    tls_verify: bool
    tls_hostname: str | bool | None
    tls_ssl_version: str | None

    @classmethod
    def of(cls, operator: Any) -> Self:
        """What an operator was given."""
        return cls(**{field.name: getattr(operator, field.name) for field in fields(cls)})

    def open(self, patience: float | None = None) -> Engine:
        """The engine; see there for ``patience``."""
        return Engine(str(self.docker_url), connect=self._connect, patience=patience)

    def _connect(self, timeout: float) -> APIClient:
        """A client as the provider's hook makes them, with this time limit of one call."""
        tls = DockerHook.construct_tls_config(
            ca_cert=self.tls_ca_cert,
            client_cert=self.tls_client_cert,
            client_key=self.tls_client_key,
            verify=self.tls_verify,
            assert_hostname=self.tls_hostname,
            ssl_version=self.tls_ssl_version,
        )
        return DockerHook(self.docker_conn_id, self.docker_url, self.api_version, tls, int(timeout)).api_client
