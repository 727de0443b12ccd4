"""All the checks, in the order they run.

They know capabilities, not vendors: what a backend declares is held against it, what it does not
declare is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quantcore.contracts.backend import BackendPlugin, Support
from quantcore.contracts.remote import RemoteBackend
from quantcore.testing import declared, required, trained
from quantcore.testing.under_test import BackendUnderTest


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        name: As in the table that `quantcore backends check` prints.
        run: Raises AssertionError where the promise is broken.
        tier: `required`, or the capability that it belongs to.
        applies: Whether the backend declares what the check needs.
    """

    name: str
    run: Callable[[BackendUnderTest], None]
    tier: str = "required"
    applies: Callable[[BackendPlugin], bool] = lambda plugin: True


#: What is about a plugin's installation can only be seen in the environment that it is in.
_HERE = "an installation in this environment"


def _simulates(plugin: BackendPlugin) -> bool:
    return plugin.capabilities.simulate is not Support.NONE


def _operators(plugin: BackendPlugin) -> bool:
    return plugin.capabilities.operators is not None and _here(plugin)


def _trains(plugin: BackendPlugin) -> bool:
    return plugin.capabilities.train is not Support.NONE


def _here(plugin: BackendPlugin) -> bool:
    return not isinstance(plugin, RemoteBackend)


CHECKS: tuple[Check, ...] = (
    Check("entry point resolves, API version matches", required.resolves),
    Check("listing imports nothing", required.listing_imports_nothing, _HERE, _here),
    Check(
        "missing framework is answered with a command",
        required.missing_framework_is_told,
        _HERE,
        _here,
    ),
    Check("layers are described by name", required.layers_are_described),
    Check("network agrees with the float graph", required.network_agrees),
    Check("sessions are independent", required.sessions_are_independent),
    Check("unknown options are refused", required.unknown_options_are_refused),
    Check("foreign layers are refused by name", required.foreign_layers_are_refused),
    Check("rules of the policy are honoured", required.rules_are_honoured),
    Check("refuses before reading an image", required.refuses_before_reading),
    Check("every declared observer works", required.every_observer_works),
    Check("same inputs, same table", required.same_inputs_same_table),
    Check("float model is left untouched", required.model_is_untouched),
    Check("table round-trips and becomes a Q/DQ graph", required.table_becomes_a_graph),
    Check("NaN is named", required.bad_numbers_are_named),
    Check("memory is flat in the number of images", required.memory_is_flat),
    Check("interruption leaves nothing behind", required.interruption_leaves_nothing),
    Check(
        "max is exact",
        declared.max_is_exact,
        "observer max",
        lambda plugin: "max" in plugin.capabilities.activation_observers,
    ),
    Check(
        "batch size does not change max",
        declared.batches_do_not_matter,
        "observer max",
        lambda plugin: "max" in plugin.capabilities.activation_observers,
    ),
    Check(
        "weight ranges follow their axis",
        declared.weights_have_their_axis,
        "weight observer max",
        lambda plugin: "max" in plugin.capabilities.weight_observers,
    ),
    Check(
        "portable ranges are everyone's",
        declared.portable_is_portable,
        "portable",
        lambda plugin: "portable" in plugin.capabilities.implementations,
    ),
    Check(
        "simulation agrees with the Q/DQ graph",
        declared.simulation_matches_graph,
        "simulate",
        _simulates,
    ),
    Check(
        "float64 rounds nothing",
        declared.float64_rounds_nothing,
        "float64",
        lambda plugin: "float64" in plugin.capabilities.arithmetics,
    ),
    Check(
        "declared operators agree with ONNX Runtime",
        declared.operators_agree,
        "operators",
        _operators,
    ),
    Check(
        "simulation leaves the float network alone",
        declared.simulation_leaves_float_alone,
        "simulate",
        _simulates,
    ),
    Check(
        "simulations stand side by side",
        declared.simulations_stand_side_by_side,
        "simulate",
        _simulates,
    ),
    Check(
        "training steps are the defined ones",
        trained.step_is_the_reference,
        "train",
        lambda plugin: _trains(plugin) and "float64" in plugin.capabilities.arithmetics,
    ),
    Check("training goes on where it was", trained.training_goes_on, "train", _trains),
    Check(
        "training leaves the float network alone",
        trained.training_leaves_float_alone,
        "train",
        _trains,
    ),
)
