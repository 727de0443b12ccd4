"""What backends share: errors that name what was observed, and numbers that are exact."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.graph_session import GraphSession
from quantcore.contracts.observing import (
    SumsChecked,
    blamed,
    finite,
    largest,
    looks,
    place,
    swaps,
    symmetric_range,
    with_sums,
)
from quantcore.contracts.registry import load_engine
from quantcore.contracts.session import SessionOptions
from quantcore.errors import BackendError, CapabilityError, RangeError
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site

SITE = Site("x", "activation", TensorPolicy("max"), ("conv1", "conv2"))
WEIGHT = np.array([[[1, -2], [0, 0.5]], [[0, 0], [-3, 2]]], np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(bad) -> None:
    good = np.ones(3, np.float32)
    assert finite(SITE, good) is good
    with pytest.raises(RangeError, match="activation 'x' of layer conv1, conv2: NaN or inf"):
        finite(SITE, np.array([1, bad], np.float32))
    with pytest.raises(RangeError, match="activation 'x' of layer conv1, conv2"):
        symmetric_range(SITE, bad)


def test_the_largest_magnitude_is_that_of_the_whole_or_of_each_channel() -> None:
    assert largest(WEIGHT, None) == 3
    assert largest(WEIGHT, 0).tolist() == [2, 3]
    assert largest(WEIGHT, 1).tolist() == [2, 3]
    assert largest(WEIGHT, 2).tolist() == [3, 2]
    channels = Site("w", "weight", TensorPolicy("max"), ("conv1",), 0)
    assert symmetric_range(channels, largest(WEIGHT, 0)).amax == (2.0, 3.0)
    assert symmetric_range(SITE, np.array([[2.0]])).amax == 2.0


def test_what_a_calibrator_raises_is_blamed_on_it() -> None:
    told = r"^Acme's max failed on 'x', 'y': ValueError: no bins;"
    with pytest.raises(BackendError, match=told), blamed("Acme's max", ("x", "y")):
        raise ValueError("no\n  bins")
    with pytest.raises(CapabilityError, match=r"^mine$"), blamed("Acme's max", ("x",)):
        raise CapabilityError("mine")


def test_a_sum_shows_what_is_not_finite(net) -> None:
    graph = with_sums(net.proto, ("t1", "t3"))
    built = onnxruntime.InferenceSession(graph.SerializeToString())
    session = SumsChecked(built)
    images = np.ones((1, 3, 16, 16), np.float32)
    assert len(session.run(None, {"images": images})) == 4
    assert [output.name for output in session.get_outputs()] == ["y", "z", "t1!sum", "t3!sum"]
    images[0, 0, 3, 3] = np.nan
    with pytest.raises(RangeError, match="activation 't1': NaN or infinite"):
        session.run(None, {"images": images})
    assert len(net.proto.graph.output) == 2


def test_tensors_are_shown_and_forced_in_passing() -> None:
    seen: list[float] = []
    look = looks({"a": seen.append}, float)
    assert look["a"]("2.5") == "2.5"
    assert seen == [2.5]
    computed: dict[str, float] = {}
    swap = swaps({"a": 4.0}, computed, float, str)  # type: ignore[dict-item]
    assert swap["a"]("2.5") == "4.0"
    assert computed == {"a": 2.5}


class _Maxima(GraphSession):
    def _observe(self, sites, batches, progress):
        weights = self.model.initializers
        amax = {
            site.tensor: largest(weights[site.tensor], site.axis)
            for site in sites
            if site.role == "weight"
        }
        for site, values in self.activations(sites, batches):
            amax[site.tensor] = max(amax.get(site.tensor, 0.0), np.abs(values).max())
        return {site.tensor: symmetric_range(site, amax[site.tensor]) for site in sites}


def test_a_graph_runs_in_an_engine_on_so_many_threads(net, planned, node_session, monkeypatch):
    engine = load_engine("onnxruntime")
    build, asked = engine.build, []

    def noted(proto, options: EngineOptions):
        asked.append(options.threads)
        return build(proto, options)

    monkeypatch.setattr(engine, "build", noted)
    known, sites = node_session(net).capabilities, planned(net, activations={"observer": "max"})
    images = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
    with _Maxima("maxima", net, known, SessionOptions(threads=1), engine) as session:
        found = session.observe(sites.sites, [images[:2], images[2:]])
        wanted = node_session(net).observe(sites.sites, [images])
        assert session.forward(images).keys() == {"y", "z"}
        images[1, 0, 0, 0] = np.inf
        with pytest.raises(RangeError, match=r"'images' of layer m\.0\.conv: NaN or infinite"):
            session.observe(sites.sites, [images])
    assert asked == [1, 1, 1]
    for name, one in found.items():
        np.testing.assert_allclose(one.amax, wanted[name].amax, rtol=1e-5)


def test_a_site_is_told_with_its_layers() -> None:
    assert place(SITE) == "activation 'x' of layer conv1, conv2"
