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


@app.get("/reports/{name}", dependencies=[Depends(requires_access_dag(method="GET"))])
def show(name: str) -> HTMLResponse:
    """The newest report of a loop, ``project.loop``, or of its data, ``project.loop.data``."""
    file = report_file(name) if _NAME.fullmatch(name) else None
    if file is None or not file.is_file():
        raise HTTPException(404, "no such report yet: monitor writes the loop's, validate that of its data")
    return HTMLResponse(file.read_text(encoding="utf-8"), headers=_POLICY)
