"""Backends for the portability study, built on the fakes; their processes import this too."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from fake_backends import Fake, FakeSimulation, Session, scaled

from quantcore.contracts.capabilities import Support
from quantcore.errors import BackendError
from quantcore.training.reference_run import ReferenceRun


class Slow(FakeSimulation):
    def _infer(self, batch, forced, computed):
        time.sleep(float(os.environ.get("STUDY_SLOW", 0)))
        return super()._infer(batch, forced, computed)


class Silent(Slow):
    def _infer(self, batch, forced, computed):
        if len(batch) == 1:
            raise BackendError("this framework has lost its voice")
        return super()._infer(batch, forced, computed)


class First(Fake):
    """As honest as `Fake`; where `STUDY_SLOW` is set, it simulates slowly enough to be killed."""

    capabilities = replace(Fake.capabilities, train=Support.NONE)

    class Session(Session):
        def _simulation(self, sites, ranges):
            return Slow(self, sites, ranges)

        def _observe(self, sites, batches, progress):
            log = os.environ.get("STUDY_LOG")
            if log:
                with Path(log).open("a") as file:
                    file.write(f"{self.name}\n")
            return super()._observe(sites, batches, progress)


class Studious(First):
    """Trains: every step makes the heads' bias a little larger."""

    capabilities = replace(First.capabilities, train=Support.FULL)

    class Session(First.Session):
        def _training(self, sites, ranges, spec):
            return Growing(self.model, sites, ranges, spec)


class Growing(ReferenceRun):
    """Knows nothing of gradients, and so any operator."""

    def _step(self, batch, targets, rates):
        self._values["head.bias"] = self._values["head.bias"] + 0.01
        return dict.fromkeys(targets, 1.0), {}


class Single(First):
    """Computes in float32 alone."""

    capabilities = replace(First.capabilities, arithmetics=frozenset({"float32"}))


class Wide(First):
    """Finds ranges so wide that nothing is left in the codes."""

    class Session(First.Session):
        def _observe(self, sites, batches, progress):
            return scaled(super()._observe(sites, batches, progress), 400)


class Mute(First):
    """Calibrates and passes the audit, which is in pairs; single images it cannot simulate."""

    class Session(First.Session):
        def _simulation(self, sites, ranges):
            return Silent(self, sites, ranges)
