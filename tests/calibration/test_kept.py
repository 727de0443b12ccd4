"""Statistics that were kept by channel, as only Python can make them."""

from __future__ import annotations

import numpy as np
import pytest

from quantcore.calibration.collector import Collector
from quantcore.calibration.portable import weight_ranges
from quantcore.calibration.recalibration import recalibrate
from quantcore.errors import PolicyError
from quantcore.policy.policy import CalibrationPolicy, TensorPolicy
from quantcore.qdq.placement import Site, plan
from quantcore.table.kept import KeptHistograms
from quantcore.table.table import CalibrationTable, Provenance


def test_a_histogram_by_channel_serves_no_tensor_as_a_whole(net):
    policy = CalibrationPolicy.from_dict({"implementation": "portable", "placement": "minimal"})
    sites = plan(net, policy)
    by_channel = TensorPolicy("max", granularity="per_channel")
    watched = [Site(s.tensor, s.role, by_channel, s.consumers, 1) for s in sites.sites]
    collector = Collector(watched, keep_histograms=True)
    for name in collector.sites:
        collector.see(name, np.random.default_rng(0).normal(size=(2, 3, 4)))
    ranges = {**weight_ranges(sites, net), **collector.ranges()}
    kept = KeptHistograms.of(net, collector.seen)
    assert all(len(seen) == 3 for seen in kept.tensors.values())
    assert KeptHistograms.from_dict(kept.to_dict()) == kept
    origin = Provenance(net.name, net.fingerprint, "x", policy=policy.to_dict())
    with pytest.raises(PolicyError, match=r"'images' of layer m\.0\.conv.*as a whole"):
        recalibrate(CalibrationTable(ranges, origin, kept), policy)
