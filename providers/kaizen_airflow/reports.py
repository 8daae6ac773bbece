"""The page on which Airflow's API server shows a loop's report, to people who are logged in and may see DAGs."""

from __future__ import annotations

import re

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from kaizen_airflow.settings import report_file

app = FastAPI(title="Kaizen reports", docs_url=None, redoc_url=None, openapi_url=None)

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
# The page is self-contained: it may load nothing and run nothing.
_POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


@app.get("/reports/{loop}", dependencies=[Depends(requires_access_dag(method="GET"))])
def show(loop: str) -> HTMLResponse:
    """The newest report of a loop, ``project.loop``."""
    file = report_file(loop) if _NAME.fullmatch(loop) else None
    if file is None or not file.is_file():
        raise HTTPException(404, "no report of this loop yet: its monitor writes one")
    return HTMLResponse(file.read_text(encoding="utf-8"), headers=_POLICY)
