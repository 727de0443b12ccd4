"""Quantization noise from histograms, against sums over bins and over the values themselves."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcore.analysis.difference import difference
from quantcore.analysis.sqnr import sqnr
from quantcore.calibration.collector import Collector
from quantcore.calibration.driver import find_ranges
from quantcore.calibration.recalibration import recalibrate
from quantcore.policy.code import Code
from quantcore.policy.policy import CalibrationPolicy, TensorPolicy
from quantcore.qdq.placement import Site, plan
from quantcore.report import plots
from quantcore.runtime.plain import json_text, plain
from quantcore.table.table import CalibrationTable, Provenance, TensorRange

RANDOM = np.random.default_rng(5)


def statistics(values):
    site = Site("x", "activation", TensorPolicy("mse"), ("conv",))
    collector = Collector([site])
    collector.see("x", np.asarray(values, np.float32)[None])
    return collector.seen["x"]


def coded(values, low, high, bits, symmetric):
    """Q/DQ of values, spelled out in float64."""
    if symmetric:
        step, zero, bottom = high / (2 ** (bits - 1) - 1), 0, -(2 ** (bits - 1))
    else:
        step = (high - low) / (2**bits - 1)
        zero, bottom = round(-low / step), 0
    codes = np.clip(np.rint(values / step) + zero, bottom, bottom + 2**bits - 1)
    return (codes - zero) * step


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("clip", [0.3, 1.0])
def test_it_is_what_the_values_themselves_give(symmetric, bits, clip):
    values = RANDOM.normal(0.5, 1.5, 200_000).astype(np.float32)
    low, high = float(values.min()) * clip, float(values.max()) * clip
    if symmetric:
        high = max(-low, high)
        low = -high
    error = coded(values.astype(np.float64), low, high, bits, symmetric) - values
    wanted = 10 * math.log10(np.square(values, dtype=np.float64).sum() / np.square(error).sum())
    policy = TensorPolicy("max", code=Code(bits=bits), symmetric=symmetric)
    found = sqnr(statistics(values), TensorRange("activation", low, high), policy)
    assert found == pytest.approx(wanted, abs=0.02)


@given(
    hnp.arrays(np.float32, st.integers(1, 12), elements=st.floats(-9, 9, width=32)),
    st.floats(0.0625, 10, width=32),
    st.integers(2, 8),
    st.booleans(),
)
def test_the_integral_is_the_sum_of_many_points(values, high, bits, symmetric):
    seen = statistics(values)
    histogram = seen[0].histogram
    low = -high if symmetric else -high / 3
    policy = TensorPolicy("max", code=Code(bits=bits), symmetric=symmetric)
    signal = noise = 0.0
    counts, centres = histogram.signed()
    for count, centre in zip(counts[counts > 0], centres[counts > 0], strict=True):
        half = histogram.width / (1 if centre == 0 else 2)
        a, b = (np.clip(centre + s * half, values.min(), values.max()) for s in (-1, 1))
        points = a + (np.arange(2000) + 0.5) / 2000 * (b - a)
        signal += count * np.square(points).mean()
        error = coded(points, float(np.float32(low)), float(np.float32(high)), bits, symmetric)
        noise += count * np.square(error - points).mean()
    found = sqnr(seen, TensorRange("activation", low, high), policy)
    assume(signal == 0 or signal > 1e-30)
    if signal == 0:
        assert found is None
    elif noise < 1e-9 * signal:  # all within rounding of the scale
        assert found > 85
    else:
        assert found == pytest.approx(10 * math.log10(signal / noise), abs=0.05)


def test_corners_have_an_answer():
    policy = TensorPolicy("max")
    one = TensorRange.symmetric("activation", 127.0)
    assert sqnr(statistics([0.0, 0.0]), one, policy) is None
    assert sqnr(statistics([3.0] * 5), one, policy) == math.inf
    assert sqnr(statistics([3.5] * 5), one, policy) == pytest.approx(20 * math.log10(7))
    assert sqnr(statistics([1.0]), TensorRange.symmetric("activation", 1e-44), policy) is None
    two = statistics([1.0]) + statistics([4.5])
    channels = TensorRange("activation", (-127.0, -254.0), (127.0, 254.0), 0)
    assert sqnr(two, channels, policy) == pytest.approx(10 * math.log10(21.25 / 0.25))
    assert sqnr(two, TensorRange("activation", (-1.0,) * 3, (1.0,) * 3, 0), policy) is None


@pytest.fixture
def pair(net, given_session):
    """A table with histograms by `max`, and one by another policy: `pair(**keys)`."""
    wanted = CalibrationPolicy.from_dict(
        {
            "placement": "minimal",
            "implementation": "portable",
            "activations": {"observer": "max"},
        }
    )
    sites = plan(net, wanted)

    observed = [site.tensor for site in sites.sites if site.role == "activation"]

    def values(tensor, batch):
        return RANDOM.standard_t(3 + observed.index(tensor), (2, 5000)).astype(np.float32)

    session = given_session(net, values)
    (ranges,), kept = find_ranges(session, [sites], [np.zeros((2, 1), np.float32)], keep=True)
    provenance = Provenance(net.name, net.fingerprint, "x", {}, wanted.to_dict())
    table = CalibrationTable(ranges, provenance, kept)
    return lambda **keys: (
        table,
        recalibrate(table, CalibrationPolicy.from_dict({"placement": "minimal", **keys})),
    )


def test_tables_are_ranked_by_noise_where_a_histogram_tells_it(pair) -> None:
    first, second = pair(activations={"observer": "mse"})
    bare = [CalibrationTable(t.tensors, t.provenance) for t in (first, second)]
    found = difference(first, bare[1])
    assert plain(found) == plain(difference(bare[0], second))
    assert plain(found) == plain(difference(first, second))
    known = [t for t in found.tensors if t.decibels is not None]
    assert known == list(found.tensors[: len(known)])
    assert {t.role for t in known} == {"activation"}
    sizes = [abs(t.decibels) for t in known]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0.1
    assert all(t.decibels > -0.01 for t in known), "mse is the least noisy of all"
    assert all(t.decibels == t.second_db - t.first_db for t in known)
    assert not difference(*bare).has_noise
    assert json.loads(json_text(found))["tensors"][0]["decibels"] > 0.1


def test_a_table_agrees_with_itself(pair) -> None:
    table, _ = pair()
    assert {t.decibels for t in difference(table, table).tensors} == {0.0, None}


@pytest.mark.parametrize("kept", [True, False])
def test_the_picture_has_a_row_for_each_tensor(pair, kept) -> None:
    first, second = pair(activations={"observer": "mse"})
    if not kept:
        first, second = (CalibrationTable(t.tensors, t.provenance) for t in (first, second))
    found = difference(first, second)
    svg = plots.difference(found, "a <1>.json", "b.json")
    assert svg.startswith("<svg")
    assert "b.json against a &lt;1&gt;.json" in svg
    for tensor in found.tensors:
        assert f">{tensor.tensor}</text>" in svg
    assert ("SQNR" in svg) is kept
    assert "nan" not in svg
    ElementTree.fromstring(svg)
    assert "the first 2 of" in plots.difference(found, "a", "b", shown=2)


def test_the_command_writes_it(cli, pair, tmp_path) -> None:
    paths = SimpleNamespace(a=tmp_path / "a.json", b=tmp_path / "b.json", out=tmp_path / "d.svg")
    for path, table in zip((paths.a, paths.b), pair(activations={"observer": "mse"}), strict=True):
        table.save(path)
    done = cli("diff", paths.a, paths.b, "--plot", paths.out)
    assert done.code == 0, done.err
    assert "second - first, dB" in done.out
    assert "d.svg: written" in done.out
    assert paths.out.read_text().startswith("<svg")
    data = json.loads(cli("diff", paths.a, paths.b, "--plot", paths.out, "--json").out)
    assert data["tensors"][0]["decibels"] is not None
