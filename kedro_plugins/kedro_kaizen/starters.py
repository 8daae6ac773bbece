"""The flights project for ``kedro new --starter=kaizen-flights``: from the wheel, or from the checkout beside it."""

from __future__ import annotations

from pathlib import Path

from kedro.framework.cli.starters import KedroStarterSpec


def _template() -> Path:
    here = Path(__file__).parent
    packaged = here / "project_template"
    # An editable install has no packaged copy: the template lies at the root of the checkout.
    return packaged if packaged.is_dir() else here.parents[1] / "project_template"


starters = [KedroStarterSpec(alias="kaizen-flights", template_path=str(_template()))]
