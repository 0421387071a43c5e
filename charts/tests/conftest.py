"""Each set of values, and what Helm renders from it."""

import copy
from pathlib import Path

import pytest

from charts.generate.chart_files import CHART
from charts.tests.cases import CASES
from charts.tests.rendering import Json, Manifests, Render, render_chart


@pytest.fixture
def render() -> Render:
    return render_chart


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Json:
    """Each set of values in turn."""
    return copy.deepcopy(CASES[request.param])


@pytest.fixture
def manifests(case: Json) -> Manifests:
    return render_chart(case)


@pytest.fixture
def chart_path() -> Path:
    return CHART
