"""Kept histograms: exact on disk, and as good as the images for every observer."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcore.calibration.driver import calibrate, find_ranges
from quantcore.calibration.recalibration import recalibrate
from quantcore.errors import CapabilityError, PolicyError, RangeError, TableError
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.table.packing import pack, pack_array, unpack, unpack_array
from quantcore.table.table import CalibrationTable, Provenance

RANDOM = np.random.default_rng(11)
#: Values of any tensor of the net, seven images whose extremes wander.
IMAGES = (RANDOM.standard_t(3, (7, 300)) * np.linspace(1, 4, 7)[:, None]).astype(np.float32)
RULE = {"match": "m.[12].conv", "activations": {"observer": "entropy", "stride": 2}}


def policy(**keys):
    return CalibrationPolicy.from_dict(
        {"placement": "minimal", "implementation": "portable", "images": 7, **keys}
    )


@pytest.fixture
def shown(given_session):
    """A session that shows other values for each tensor of a plan: `shown(model, sites)`."""

    def make(model, sites):
        index = {site.tensor: i for i, site in enumerate(sites.sites)}
        return given_session(model, lambda tensor, batch: batch * np.float32(1.5 ** index[tensor]))

    return make


#: An image apiece and then the rest at once.
BATCHES = (IMAGES[:1], IMAGES[1:])


@pytest.fixture
def kept(net, shown, tmp_path):
    """A table with histograms, calibrated with `max`, read back from its file."""
    wanted = policy(activations={"observer": "max"})
    sites = plan(net, wanted)
    (ranges,), found = find_ranges(shown(net, sites), [sites], BATCHES, keep=True)
    provenance = Provenance(net.name, net.fingerprint, "x", {}, wanted.to_dict(), (3, 1, 2))
    table = CalibrationTable(ranges, provenance, found)
    table.save(tmp_path / "kept.json")
    again = CalibrationTable.load(tmp_path / "kept.json")
    assert again == table
    assert again.to_json() == table.to_json()
    return again


@pytest.mark.parametrize(
    "keys",
    [
        {"activations": {"observer": "max"}},
        {"activations": {"observer": "percentile", "percentile": 99.5}},
        {"activations": {"observer": "entropy"}},
        {"activations": {"observer": "mse", "bins": 512, "start_bin": 16}},
        {"activations": {"observer": "moving_average"}},
        {"activations": {"observer": "moving_average", "momentum": 0.3}},
        {"activations": {"observer": "mse"}, "layers": [RULE]},
        {"activations": {"observer": "max"}, "layers": [{"match": "m.7*", "quantize": False}]},
    ],
    ids=str,
)
def test_the_ranges_are_those_of_a_calibration_to_the_bit(net, shown, kept, keys):
    other = policy(**keys)
    found = recalibrate(kept, other)
    sites = plan(net, other)
    wanted = calibrate(shown(net, sites), sites, BATCHES)
    assert found.tensors == wanted
    assert list(found.tensors) == list(wanted)
    assert found.provenance.policy == other.to_dict()
    assert found.provenance.image_ids == (3, 1, 2)
    assert found.provenance.recalibrated_from["policy"] == kept.provenance.policy
    # And it can be done again, from what the new table carries.
    assert recalibrate(found, other).tensors == wanted


def test_images_and_seed_stay_those_of_the_table(kept):
    found = recalibrate(
        kept, CalibrationPolicy.from_dict({"placement": "minimal", "images": 5, "seed": 9})
    )
    read = CalibrationPolicy.from_dict(found.provenance.policy)
    assert (read.images, read.seed, read.implementation) == (7, 0, "portable")


def test_what_the_histograms_cannot_give_is_refused(net, kept):
    added = policy(layers=[{"match": "op:add", "quantize": True}])
    with pytest.raises(PolicyError, match=r"'t2' of layer m\.5\.add.*kept no histogram"):
        recalibrate(kept, added)
    with pytest.raises(PolicyError, match="per-channel activations"):
        recalibrate(kept, policy(activations={"granularity": "per_channel"}))
    with pytest.raises(PolicyError, match=r"weight 'w0' .*observer mse.*takes the weights"):
        recalibrate(kept, policy(weights={"observer": "mse"}))
    with pytest.raises(PolicyError, match=r"rule 'n\.\*' matches no layer"):
        recalibrate(kept, policy(layers=[{"match": "n.*", "quantize": False}]))
    with pytest.raises(TableError, match="--keep-histograms"):
        recalibrate(replace(kept, kept=None), policy())
    silent = {name: seen for name, seen in kept.kept.tensors.items() if name != "t1"}
    with pytest.raises(PolicyError, match="'t1' of layer"):
        recalibrate(replace(kept, kept=replace(kept.kept, tensors=silent)), policy())


def test_a_range_that_an_observer_cannot_find_names_the_tensor(net, kept):
    seen = kept.kept.tensors["t1"][0]
    seen.histogram.positive[0] += 10**9
    with pytest.raises(RangeError, match=r"'t1' of layer.*nearly all values are zero"):
        recalibrate(kept, policy(activations={"observer": "percentile"}))


def test_a_table_without_histograms_has_no_such_section(net, kept):
    data = json.loads(replace(kept, kept=None).to_json())
    assert data.keys() == {"format", "provenance", "tensors"}
    assert "recalibrated_from" not in data["provenance"]


def _cut(seen):
    seen["histogram"]["positive"] = seen["histogram"]["positive"][:-8]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda h: h["tensors"]["t1"][0].update(histogram=3), "tensor 't1'"),
        (lambda h: h["tensors"]["t1"][0]["histogram"].update(positive="?"), "tensor 't1'"),
        (lambda h: _cut(h["tensors"]["t1"][0]), "tensor 't1'.*(damaged|cut off)"),
        (lambda h: h["tensors"]["t1"][0].update(max=99), "tensor 't1'.*contradict"),
        (lambda h: h["tensors"]["t1"][0].update(extremes=pack(b"abc")), "tensor 't1'"),
        (lambda h: h["tensors"]["t1"][0].pop("images"), "tensor 't1'.*images"),
        (lambda h: h["tensors"].update(t1=[]), "tensor 't1': no statistics"),
        (lambda h: h["tensors"].update(t1=7), "tensor 't1'"),
        (lambda h: h.update(format="other"), "format"),
        (lambda h: h.update(tensors=[]), "`tensors` is missing"),
        (lambda h: h.pop("graph"), "graph"),
        (lambda h: h.update(graph=pack(b"no graph")), "unreadable graph"),
    ],
)
def test_a_damaged_section_names_file_and_tensor(kept, tmp_path, change, says):
    data = json.loads(kept.to_json())
    change(data["histograms"])
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(TableError, match=rf"bad\.json: histograms: .*{says}"):
        CalibrationTable.load(path)


def test_the_outline_plans_like_the_model(net, kept):
    outline = kept.kept.outline("tiny")
    assert len(kept.kept.graph) < 3000 < net.proto.ByteSize()
    for keys in ({"placement": "tensorrt"}, {"placement": "onnxruntime"}, {"layers": [RULE]}):
        assert plan(outline, policy(**keys)) == plan(net, policy(**keys))


@given(
    hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(-(2**63), 2**63 - 1))
    | hnp.arrays(np.float32, st.integers(0, 40))
)
def test_arrays_are_packed_to_the_bit(values):
    found = unpack_array(pack_array(values), values.dtype, 40)
    assert found.dtype == values.dtype
    assert found.tobytes() == values.tobytes()


def test_packed_data_is_held_to_its_limit():
    bomb = base64.b64encode(zlib.compress(bytes(10**6))).decode()
    for bad in (bomb, pack(b"12345"), 7, "%%", bomb[:-12], base64.b64encode(b"no zlib").decode()):
        with pytest.raises(ValueError, match="packed data"):
            unpack_array(bad, np.int32, 100)
    assert unpack(pack(b"12345"), 5) == b"12345"


def test_a_backend_that_hides_its_activations_keeps_nothing(net, node_session):
    def untouched():
        raise AssertionError("an image was read")
        yield

    native = policy(implementation="native", activations={"observer": "max"})
    with node_session(net) as session, pytest.raises(CapabilityError, match="--keep-histograms"):
        find_ranges(session, [plan(net, native)], untouched(), keep=True)
