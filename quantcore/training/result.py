"""What comes out of a training: another float model, which says where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantcore.ir.edits import with_constants
from quantcore.ir.model import Array, FloatModel
from quantcore.table.table import CalibrationTable, TensorRange

#: Entry of a file's `metadata_props`; it is a part of the graph, and of its fingerprint.
KEY = "quantcore.training"


def trained_model(
    model: FloatModel, weights: Mapping[str, Array], provenance: Mapping[str, Any]
) -> FloatModel:
    """The float model with other weights.

    Args:
        model: The one that was trained.
        weights: By initializer name.
        provenance: Where they come from; JSON-serialisable.
    """
    proto = with_constants(model.proto, weights)
    before = [entry for entry in proto.metadata_props if entry.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(before)
    told = {"parent": model.fingerprint, **provenance}
    proto.metadata_props.add(key=KEY, value=json.dumps(told, sort_keys=True, allow_nan=False))
    return replace(model, proto=proto)


def trained_table(
    table: CalibrationTable,
    parent: FloatModel,
    model: FloatModel,
    ranges: Mapping[str, TensorRange],
    backend: str,
    versions: Mapping[str, str],
) -> CalibrationTable:
    """The table of a trained model.

    Args:
        table: What training started from.
        parent: Its model.
        model: What came out.
        ranges: Of every tensor that is quantized.
        backend: That trained.
        versions: Of it, and of quantcore.
    """
    origin = replace(
        table.provenance,
        model=model.name,
        fingerprint=model.fingerprint,
        backend=backend,
        versions=dict(versions),
        recalibrated_from={},
        trained_from={"fingerprint": parent.fingerprint, "sha256": table.sha256},
    )
    return CalibrationTable(dict(ranges), origin)


def origin_of(model: FloatModel) -> Mapping[str, Any]:
    """Where a trained model comes from; empty for one that was not trained here."""
    for entry in model.proto.metadata_props:
        if entry.key == KEY:
            found: Mapping[str, Any] = json.loads(entry.value)
            return found
    return {}
