"""Whatever stands in a row of SLAKE, VQA-RAD or PathVQA: samples that can be kept, or one error that names the row."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvqa_cli.data.prepared.rows import check_sample, encode_samples, make_features
from medvqa_cli.data.sources import path_vqa, slake, vqa_rad
from medvqa_cli.errors import DataError
from tests.data.builders import build_rad, build_slake, rad_record, slake_record
from tests.data.sources.layouts import build_hub, build_mevf, build_pvqa, pvqa_record

TEXTS = st.text(max_size=8) | st.sampled_from(["", " ", "../x", "/x", "a\0b", "yes", "CLOSED", "test_para", "\ud800"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
                      max_leaves=6)
HUB_ROW = {"image": "images/a.png", "question": "is it?", "answer": "yes"}
PVQA = pvqa_record("test_0000", ("a?", "b"))
ONE_ROW = {"test": [{}]}
LAYOUTS = {
    "slake": (slake, build_slake, "test.json", slake_record(4, 4), 5),
    "slake table": (slake, lambda root: build_hub(root, ONE_ROW), "test.jsonl", slake_record(4, 4) | HUB_ROW, 1),
    "vqa_rad": (vqa_rad, build_rad, "VQA_RAD Dataset Public.json", rad_record(0, "synpic1.jpg"), 1),
    "vqa_rad mevf": (vqa_rad, build_mevf, "testset.json", rad_record(9, "synpic1.jpg"), 3),
    "vqa_rad hub": (vqa_rad, lambda root: build_hub(root, ONE_ROW), "test.jsonl", HUB_ROW, 1),
    "path_vqa": (path_vqa, build_pvqa, "pvqa_test.json", PVQA, 8),
    "path_vqa hub": (path_vqa, lambda root: build_hub(root, ONE_ROW), "test.jsonl", HUB_ROW, 1),
}
"""Reader, builder, the file whose only row is made faulty, a good row, and the samples of all files with it."""


def read(plugin, root):
    try:
        return list(plugin.read(root, plugin.Options and plugin.Options())), ""
    except DataError as error:
        return [], error.message


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(data=st.data())
def test_a_row_is_read_or_named(layout, data, tmp_path_factory):
    module, build, name, record, count = LAYOUTS[layout]
    root = tmp_path_factory.getbasetemp() / f"faulty {layout}"
    if not root.exists():
        build(root)
    keys = st.sampled_from(sorted(record))
    row = record | data.draw(st.dictionaries(keys, VALUES, max_size=3))
    for key in data.draw(st.sets(keys, max_size=1)):
        del row[key]
    path = root / name
    path.write_text(json.dumps(row if path.suffix == ".jsonl" else [row]), encoding="utf-8")
    samples, fault = read(module.PLUGIN, root)
    if fault:
        assert fault.startswith((f"{path}, row 1: ", f"{path}, line 1: "))
        return
    assert len(samples) == count
    for sample in samples:
        check_sample(sample)
    encode_samples(samples, make_features().arrow_schema)
