"""Write what the stack must know and nobody else: stack/secrets, and .env for what is no secret.

What is there already is left as it is. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
from pathlib import Path

AIRFLOW_UID = 50_000
"""The user of Airflow's image, who reads the files that root wrote."""


def passwords() -> dict[str, str]:
    """A new text for each file."""
    airflow, mlflow, ledger = (secrets.token_urlsafe(32) for _ in range(3))
    return {
        "postgres_password": secrets.token_urlsafe(32),
        # host:port:database:role:password
        "airflow_pgpass": f"*:*:airflow:airflow:{airflow}\n*:*:ledger:ledger:{ledger}\n",
        "mlflow_pgpass": f"*:*:mlflow:mlflow:{mlflow}\n",
        "airflow_fernet_key": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "airflow_jwt_secret": secrets.token_urlsafe(64),
        "airflow_secret_key": secrets.token_urlsafe(32),
        "airflow_passwords": json.dumps({"admin": secrets.token_urlsafe(16)}),
    }


def write_secrets(folder: Path, uid: int) -> list[str]:
    """The names of the files that were missing, and are there now: mode 0600, owned by ``uid``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    made = []
    for name, text in passwords().items():
        path = folder / name
        if not path.exists():
            partial = folder / f".{name}"
            partial.unlink(missing_ok=True)
            partial.touch(mode=0o600, exist_ok=False)
            partial.write_text(text, encoding="ascii")
            partial.rename(path)
            made.append(name)
        path.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(path, uid, 0)
    return made


def write_settings(path: Path, settings: dict[str, str]) -> dict[str, str]:
    """Add to .env the settings that it lacks; what it says of all of them then."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Settings of docker-compose.yml; no secrets.\n"
    given = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    missing = {name: value for name, value in settings.items() if not given.get(name)}
    if missing:
        lines = [text.rstrip("\n"), *(f"{name}={value}" for name, value in missing.items()), ""]
        path.write_text("\n".join(lines), encoding="utf-8")
    return {**settings, **given, **missing}


def main() -> None:
    """Write both below the folder that is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    root = parser.parse_args().root
    uid = os.geteuid() or AIRFLOW_UID
    settings = write_settings(root / ".env", {"COMPOSE_PROJECT_NAME": "kaizen", "KAIZEN_UID": str(uid)})
    made = write_secrets(root / "stack" / "secrets", int(settings["KAIZEN_UID"]))
    print(f"stack/secrets: {', '.join(made) or 'nothing'} made; the rest was there")  # noqa: T201 - a command's answer


if __name__ == "__main__":
    main()
