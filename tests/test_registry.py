"""Finding plugins, with distributions made up on a path of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stevedore._cache
from stevedore import ExtensionManager

from quantcore.contracts import registry
from quantcore.contracts.registry import BACKENDS, DECODINGS, ENGINES, MODELS
from quantcore.errors import BackendUnavailable, PluginError

Install = Callable[..., None]

PLUGIN = """
from quantcore.contracts.backend import BackendPlugin, Capabilities
class Plugin(BackendPlugin):
    capabilities = Capabilities({"max": frozenset()}, {"max": frozenset()})
    def versions(self): return {}
    def _open(self, model, options): raise NotImplementedError
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Writes a distribution's metadata and module; nothing of it stays after the test."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    # stevedore keeps what it found by group, by sys.path, and under ~/.cache: none may see this.
    cache = stevedore._cache.Cache(str(tmp_path / "cache"))
    monkeypatch.setattr(stevedore._cache, "get_group_all", cache.get_group_all)
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    before = set(sys.modules)

    def make(
        distribution: str,
        name: str,
        body: str = PLUGIN,
        group: str = BACKENDS,
        requires: tuple[str, ...] = (),
        extras: tuple[str, ...] = (),
        attribute: str = "Plugin",
        version: str = "1.2",
        folder: Path = site,
    ) -> None:
        module = distribution.replace("-", "_") + "_module"
        (folder / f"{module}.py").write_text(body)
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        lines = [f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}"]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[{group}]\n{name} = {module}:{attribute}\n")

    yield make
    for module in set(sys.modules) - before:
        if module.endswith("_module"):
            del sys.modules[module]


def found(name: str, group: str = BACKENDS) -> registry.PluginInfo:
    return next(info for info in registry.installed(group) if info.name == name)


def test_listing_imports_nothing(install: Install) -> None:
    install("acme-quant", "acme", "raise RuntimeError('imported')")
    info = found("acme")
    assert (info.distribution, info.version, info.unavailable) == ("acme-quant", "1.2", None)
    assert "acme_quant_module" not in sys.modules
    assert info.to_dict()["available"] is True


def test_a_plugin_is_made_with_its_name(install: Install) -> None:
    install("acme-quant", "acme")
    plugin = registry.load_backend("acme")
    assert plugin.name == "acme"
    assert type(plugin).__module__ == "acme_quant_module"


def test_the_groups_are_apart(install: Install) -> None:
    install("acme-quant", "acme")
    assert "acme" not in {info.name for info in registry.installed(MODELS)}
    with pytest.raises(PluginError, match=r"unknown engine 'acme'"):
        registry.load_engine("acme")


def test_a_name_that_two_distributions_register_is_refused(install: Install) -> None:
    install("acme-quant", "acme")
    install("other-quant", "acme")
    with pytest.raises(PluginError, match="twice, by acme-quant and other-quant; uninstall one"):
        registry.load_backend("acme")
    assert sum(info.name == "acme" for info in registry.installed(BACKENDS)) == 2


def test_damaged_metadata_harms_its_own_plugin_alone(install: Install) -> None:
    install("broken-quant", "broken", requires=("what is this?",))
    install("acme-quant", "acme")
    assert registry.load_backend("acme").name == "acme"
    assert "metadata of broken-quant is damaged" in (found("broken").unavailable or "")
    with pytest.raises(BackendUnavailable, match="'broken' is not usable: the metadata of"):
        registry.load_backend("broken")


def test_a_plugin_that_comes_later_is_found(install: Install) -> None:
    with pytest.raises(PluginError, match="unknown backend 'acme'"):
        registry.load_backend("acme")
    install("acme-quant", "acme")
    assert registry.load_backend("acme").name == "acme"


def test_one_distribution_found_twice_is_no_duplicate(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.syspath_prepend(str(again))
    install("acme-quant", "acme")
    install("acme-quant", "acme", folder=again)
    assert registry.load_backend("acme").name == "acme"


@pytest.mark.parametrize(("version", "behind"), [(0, "acme-quant"), (3, "quantcore-ptq")])
def test_another_api_version_is_refused(install: Install, version: int, behind: str) -> None:
    install("acme-quant", "acme", PLUGIN + f"    api_version = {version}\n")
    told = rf"acme-quant 1\.2 is written for API version {version}; .* API version 2; run: "
    with pytest.raises(PluginError, match=rf"^backend 'acme' of {told}pip install -.* {behind}$"):
        registry.load_backend("acme")


VERSION_1 = """
from quantcore.contracts.backend import BackendPlugin, Capabilities
class Plugin(BackendPlugin):
    api_version = 1
    capabilities = Capabilities({"max": frozenset()}, {"max": frozenset()})
    def versions(self): return {}
    def open(self, model, device="auto"): raise NotImplementedError
"""


@pytest.mark.parametrize(
    ("group", "body", "why"),
    [
        (BACKENDS, "from quantcore.backend import BackendPlugin", "it imports quantcore.backend"),
        (MODELS, "import quantcore.model", "it imports quantcore.model"),
        (ENGINES, "from quantcore.engine import EnginePlugin", "it imports quantcore.engine"),
        (BACKENDS, VERSION_1, "for API version 1;"),
    ],
)
def test_a_plugin_of_version_1_gets_one_clear_line(
    install: Install, group: str, body: str, why: str
) -> None:
    install("acme-quant", "acme", body, group)
    load = {
        BACKENDS: registry.load_backend,
        MODELS: registry.load_model,
        ENGINES: registry.load_engine,
    }
    with pytest.raises(PluginError) as caught:
        load[group]("acme")
    text = str(caught.value)
    assert "\n" not in text
    assert f"'acme' of acme-quant 1.2 is written for {'' if 'API' in why else 'another'}" in text
    assert why in text
    assert text.endswith("API version 2; run: pip install --upgrade acme-quant")


def test_a_class_of_another_contract_is_refused(install: Install) -> None:
    install("acme-quant", "acme", group=ENGINES)
    with pytest.raises(PluginError, match=r"'acme' of acme-quant 1\.2 is no EnginePlugin"):
        registry.load_engine("acme")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('broken wheel')", "RuntimeError: broken wheel"),
        ("import a_module_that_is_not_there", "a_module_that_is_not_there"),
        ("", "Plugin"),
        ("class Plugin:\n    def __init__(self, name): raise ValueError('no licence')", "licence"),
        (PLUGIN.replace("def versions", "def version"), "versions"),
        (PLUGIN.replace("def _open", "def open"), "_open"),
    ],
    ids=["raises", "import", "no class", "constructor", "abstract", "open"],
)
def test_a_plugin_that_fails_to_load_is_named(install: Install, body: str, message: str) -> None:
    install("acme-quant", "acme", body)
    with pytest.raises(PluginError, match=r"'acme' of acme-quant 1\.2 fails to load") as caught:
        registry.load_backend("acme")
    assert message in str(caught.value)


def test_one_broken_plugin_does_not_stop_another(install: Install) -> None:
    install("acme-quant", "acme", "raise RuntimeError('broken')")
    install("other-quant", "other")
    assert registry.load_backend("other").name == "other"


def test_an_unknown_name_lists_what_is_installed(install: Install) -> None:
    install("acme-quant", "acme-quant")
    with pytest.raises(PluginError, match=r"unknown backend 'acme_quant'.*mean 'acme-quant'"):
        registry.load_backend("acme_quant")
    with pytest.raises(PluginError, match=r"installed: .*acme-quant"):
        registry.load_backend("nothing-like-it")


def test_unknown_models_and_engines_are_called_so() -> None:
    with pytest.raises(PluginError, match=r"unknown model 'nope'; installed: .*"):
        registry.load_model("nope")
    with pytest.raises(PluginError, match=r"unknown engine 'onnxruntim'.*mean 'onnxruntime'"):
        registry.load_engine("onnxruntim")


def test_decodings_are_classes_found_by_their_kind(install: Install) -> None:
    assert registry.load_decoding("none").kind == "none"
    with pytest.raises(PluginError, match=r"unknown decoding 'gird' .*mean 'grid'"):
        registry.load_decoding("gird")
    install("acme-boxes", "acme", "raise RuntimeError('broken')", DECODINGS)
    with pytest.raises(PluginError, match=r"decoding 'acme' of acme-boxes 1\.2 fails to load"):
        registry.load_decoding("acme")
    install("other-boxes", "other", "Plugin = 7", DECODINGS)
    with pytest.raises(PluginError, match="decoding 'other' of other-boxes is no Decoding"):
        registry.load_decoding("other")


@pytest.mark.parametrize(
    "requirement", ["a-framework-nobody-has>=2", "numpy>=999", "a-framework-nobody-has"]
)
def test_a_missing_requirement_gives_the_install_command(
    install: Install, requirement: str
) -> None:
    install("acme-quant", "acme", "raise RuntimeError('imported')", requires=(requirement, "numpy"))
    with pytest.raises(BackendUnavailable) as caught:
        registry.load_backend("acme")
    assert f'pip install "{requirement}"' in str(caught.value)
    info = found("acme")
    assert info.unavailable is not None
    assert info.to_dict()["available"] is False


def test_requirements_of_other_systems_do_not_count(install: Install) -> None:
    install("acme-quant", "acme", requires=('nobody-has-it; sys_platform == "plan9"',))
    assert found("acme").unavailable is None


def test_an_extra_counts_for_the_plugin_of_its_name_alone(install: Install) -> None:
    for name in ("lean", "rich"):
        requires = ('nobody-has-it>=1; extra == "rich"', 'nor-that; extra == "test"')
        install("acme-quant", name, requires=requires, extras=("rich", "test"))
    assert found("lean").unavailable is None
    assert registry.load_backend("lean").name == "lean"
    reason = found("rich").unavailable
    assert reason is not None
    assert 'pip install "nobody-has-it>=1"' in reason
    assert "nor-that" not in reason


def test_the_installed_plugins_are_listed_by_name() -> None:
    names = [info.name for info in registry.installed(ENGINES)]
    assert names == sorted(names)
    assert "onnxruntime" in names


def test_versions_are_those_of_the_distributions() -> None:
    from importlib.metadata import version

    assert registry.versions_of(("numpy",)) == {"numpy": version("numpy")}
