"""Whatever the schema allows, and whatever it does not, the service answers and never breaks."""

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error

from app.api import create_app
from app.service import prepare
from tests.app.conftest import settings_in


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> schemathesis.BaseSchema:
    app = create_app(settings_in(tmp_path_factory.mktemp("openapi"), allowed_hosts=["*"]))
    prepare(app.state.store, app.state.settings)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_nothing_breaks_the_service(schema: schemathesis.BaseSchema, mode: schemathesis.GenerationMode) -> None:
    for result in schema.get_all_operations():
        with suppress(Unsatisfiable):
            hammer(result.ok(), mode)


def hammer(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode) -> None:
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=[not_a_server_error])

    run()
