"""`report.json`: the fields that users were promised, the same bytes each time, and the committed schema."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import pytest

from edgeprune.core.errors import DataError
from edgeprune.core.results import Drift, EngineBuild, Latency, ModelFacts
from edgeprune.report import Inspection, Report, describe_environment, from_json, to_json
from edgeprune.report.schema import report_schema
from edgeprune.report.serialise import schema_of


def test_a_report_comes_back_as_it_was(report, inspection):
    assert from_json(to_json(report), Report) == report
    assert from_json(to_json(inspection), Inspection) == inspection


def test_equal_reports_give_equal_bytes(report):
    assert to_json(report) == to_json(from_json(to_json(report), Report))
    reordered = replace(report.environment, packages={"torch": "2", "onnx": "1"})
    other = replace(report.environment, packages={"onnx": "1", "torch": "2"})
    assert to_json(reordered) == to_json(other)


def test_an_infinite_drift_is_still_a_number_past_every_limit(report):
    broken = {"logits": replace(report.validation.drift["logits"], kl=math.inf, relative_error=math.inf)}
    written = to_json(replace(report, validation=replace(report.validation, drift=broken)))
    read = from_json(written, Report).validation.drift["logits"]
    assert read.kl == read.relative_error == sys.float_info.max


def test_the_schema_version_stands_first_and_a_newline_last(report):
    data = to_json(report)
    assert data.startswith(b'{\n  "schema": 2,\n  "source": ')
    assert data.endswith(b"}\n")


def test_the_promised_fields_are_there(report):
    data = json.loads(to_json(report))
    assert {"schema", "model", "pruned", "strategy", "validation", "engines", "latency"} <= set(data)
    assert {"refusals", "environment", "command"} <= set(data)
    size = {"sha256", "macs", "params", "blocks", "tokens", "prefix_tokens", "tokens_per_block"}
    assert set(data["model"]) == set(data["pruned"]) == size
    assert {"name", "options", "candidates"} <= set(data["strategy"])
    assert {"reference", "samples", "identity", "exactness", "drift"} <= set(data["validation"])
    assert "max_abs_error" in data["validation"]["exactness"]
    metrics = {"cosine", "kl", "top1_agreement", "relative_error", "worst_sample"}
    assert metrics <= set(data["validation"]["drift"]["logits"])
    build = {"target", "builder", "compute_capability", "built", "bytes", "attentions", "fused_attentions", "error"}
    assert build <= set(data["engines"][0])
    assert {"target", "kind", "dense_p50_ms", "pruned_p50_ms", "speedup"} <= set(data["latency"][0])
    assert data["refusals"][0] == {
        "code": "no-class-token",
        "reason": "the head pools all tokens",
        "at": ["/head/ReduceMean"],
    }


def test_a_path_is_a_word_and_anything_strange_an_error():
    assert to_json({"path": Path("out") / "model.onnx"}) == b'{\n  "path": "out/model.onnx"\n}\n'
    with pytest.raises(TypeError, match="a report cannot hold a object"):
        to_json(object())


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"{}", "Object missing required field `model`"), (b"not json", "malformed"), (b"\xff", "malformed")],
)
def test_anything_else_is_no_report(data, message):
    with pytest.raises(DataError, match=message) as caught:
        from_json(data, Report)
    assert caught.value.hint == "write it again with this version of edgeprune"


def test_the_committed_schema_is_that_of_the_types(project):
    committed = (project / "edgeprune" / "report" / "report.schema.json").read_bytes()
    assert committed == to_json(report_schema()), "run `make schema`"


@pytest.fixture
def validator(project):
    schema = json.loads((project / "edgeprune" / "report" / "report.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_a_report_fits_the_committed_schema(report, validator):
    assert not list(validator.iter_errors(json.loads(to_json(report))))


def test_a_compile_of_the_demo_fits_the_committed_schema(compiled_demo, validator):
    assert not list(validator.iter_errors(json.loads((compiled_demo / "report.json").read_bytes())))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 1),
        (("latency", 0, "kind"), "guessed"),
        (("model", "macs"), "many"),
        (("blocks", 0, "pruned_tokens"), None),
        (("token_maps", 0, "cuts", 0, "owners", 0), 0.5),
    ],
)
def test_the_committed_schema_refuses_what_is_no_report(report, validator, path, value):
    data = json.loads(to_json(report))
    *way, last = path
    place = data
    for step in way:
        place = place[step]
    place[last] = value
    (error,) = validator.iter_errors(data)
    assert tuple(error.absolute_path) == path


def test_a_report_without_its_version_does_not_fit(report, validator):
    data = json.loads(to_json(report))
    del data["schema"]
    assert [error.message for error in validator.iter_errors(data)] == ["'schema' is a required property"]


def test_the_schema_names_every_field():
    definitions = schema_of(Report)["$defs"]
    for kind in (Report, ModelFacts, Drift, EngineBuild, Latency):
        assert set(definitions[kind.__name__]["properties"]) == {item.name for item in fields(kind)}


def test_the_environment_names_versions_and_no_path():
    environment = describe_environment()
    assert environment.edgeprune == "0.1.0"
    assert environment.packages["onnx"]
    assert "/" not in to_json(environment).decode()
