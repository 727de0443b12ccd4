"""The engines that quantcore ships; the only place in the core where a runtime is imported."""

#: The engine that runs float graphs for parity checks and Q/DQ graphs for audits.
REFERENCE_ENGINE = "onnxruntime"
