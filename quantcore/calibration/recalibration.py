"""Other observers applied to the histograms that a table kept: a new table without the data."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import quantcore
from quantcore.calibration.portable import activation_ranges
from quantcore.contracts.observing import place
from quantcore.errors import PolicyError, TableError
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import Plan, Site, plan
from quantcore.table.kept import KeptHistograms
from quantcore.table.table import CalibrationTable


def recalibrate(table: CalibrationTable, policy: CalibrationPolicy) -> CalibrationTable:
    """The table that a portable calibration with another policy gives on the same images.

    Activations get their ranges from the kept statistics, bit for bit those that the portable
    observers would find on the images; the ranges of weights are taken over, so their policy must
    be the one that the table was made with. Images, batch size, seed and arithmetic are those of
    the table, whatever the policy says, and the observers are always quantcore's own.

    Args:
        table: Made with `--keep-histograms`.
        policy: What to apply to it.

    Raises:
        TableError: The table has no histograms.
        PolicyError: The policy does not fit the model, or asks for what is not kept.
        RangeError: A tensor has no range by the new observer; names tensor and layers.
    """
    if table.kept is None:
        raise TableError(
            "the table has no histograms; calibrate with --keep-histograms to find other ranges "
            "without the images"
        )
    source = table.provenance
    old = CalibrationPolicy.from_dict(source.policy)
    policy = replace(
        policy,
        implementation="portable",
        arithmetic=old.calibrates_in,
        images=old.images,
        batch_size=old.batch_size,
        seed=old.seed,
    )
    model = table.kept.outline(source.model)
    before, after = plan(model, old), plan(model, policy)
    _check(table, table.kept, before, after)
    found = {**table.tensors, **activation_ranges(after, table.kept.tensors)}
    ranges = {site.tensor: found[site.tensor] for site in after.sites}
    was = {"policy": source.policy, "sha256": hashlib.sha256(table.to_json().encode()).hexdigest()}
    provenance = replace(
        source,
        versions={**source.versions, "quantcore": quantcore.__version__},
        policy=policy.to_dict(),
        recalibrated_from=was,
    )
    return CalibrationTable(ranges, provenance, table.kept)


def _check(table: CalibrationTable, kept: KeptHistograms, before: Plan, after: Plan) -> None:
    """Refuses sites that the table cannot serve."""
    old = {site.tensor: site for site in before.sites}
    for site in after.sites:
        if site.role == "activation":
            if len(kept.tensors.get(site.tensor, ())) != 1:
                raise PolicyError(
                    f"{place(site)}: the table kept no histogram of it as a whole; calibrate on "
                    "the images with this policy, or leave the layer in float (`quantize: false`)"
                )
        elif site.tensor not in table.tensors or not _alike(old.get(site.tensor), site):
            raise PolicyError(
                f"{place(site)}: the policy wants another range for it ({_words(site)}) than the "
                f"table has ({_words(old.get(site.tensor))}), and that takes the weights; keep the "
                "weights' policy, or calibrate on the images with this one"
            )


def _alike(old: Site | None, new: Site) -> bool:
    return old is not None and (old.policy, old.axis) == (new.policy, new.axis)


def _words(site: Site | None) -> str:
    if site is None:
        return "none"
    return ", ".join(f"{key} {value}" for key, value in site.policy.to_dict().items())
