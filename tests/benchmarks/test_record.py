"""What the benchmarks write: JSON that any reader takes, and where it comes from."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import record


def test_what_is_no_number_becomes_null(tmp_path: Path) -> None:
    file = tmp_path / "new" / "some.json"
    record.save({"a": [1.5, math.nan, (math.inf, 2)], "b": {"c": -math.inf}}, file)
    assert json.loads(file.read_text()) == {"a": [1.5, None, [None, 2]], "b": {"c": None}}


@pytest.mark.slow
def test_the_origin_names_machine_threads_and_versions() -> None:
    found = record.origin()
    assert found["machine"]["processor"]
    assert found["machine"]["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"] == torch.__version__
