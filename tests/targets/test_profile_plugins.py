"""Profiles that another package brings: real entry points of a package that lies on the path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets import profiles
from edgeprune_targets._profile_plugins import plugin_profiles
from edgeprune_targets.profiles import load_target, profile_text, target_aliases, target_names

Install = Callable[..., Path]


def _forget() -> None:
    plugin_profiles.cache_clear()
    profiles._plugin_paths.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with one entry point on the path; its module says where the profiles are."""

    def put(module: str, *, name: str = "boards", attribute: str = "PROFILES") -> Path:
        code = f"acme_{name}_{tmp_path.name.replace('-', '_')}"
        site = tmp_path / "site"
        (site / f"{code}-1.dist-info").mkdir(parents=True)
        (site / f"{code}.py").write_text(f"from pathlib import Path\nHERE = Path(__file__).parent\n{module}\n")
        (site / f"{code}-1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {code}\nVersion: 1\n")
        points = f"[edgeprune.targets]\n{name} = {code}:{attribute}\n"
        (site / f"{code}-1.dist-info" / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(str(site))
        _forget()
        return site

    _forget()
    yield put
    _forget()


def _profile(folder: Path, name: str, **changes: str) -> Path:
    text = profile_text("rtx-4090").replace('name = "rtx-4090"', f'name = "{name}"')
    for old, new in changes.items():
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "module",
    ["PROFILES = HERE / 'boards'", "PROFILES = str(HERE / 'boards')", "def PROFILES(): return HERE / 'boards'"],
)
def test_a_folder_of_profiles(install: Install, module: str) -> None:
    site = install(module)
    _profile(site / "boards", "acme-one")
    path = _profile(site / "boards", "acme-two")
    path.write_text('aliases = ["acme"]\n' + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert {"acme-one", "acme-two", "rtx-4090"} <= set(target_names())
    assert load_target("acme-one@default").name == "acme-one"
    assert load_target("acme").name == target_aliases()["acme"] == "acme-two"
    assert profile_text("acme") == path.read_text(encoding="utf-8")


def test_one_profile(install: Install) -> None:
    site = install("PROFILES = HERE / 'boards' / 'acme-one.toml'")
    _profile(site / "boards", "acme-one")
    assert load_target("acme-one").sms == 128


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("raise OSError('no licence')", "failed: OSError: no licence"),
        ("def PROFILES(): return 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("", "failed: AttributeError: module"),
        ("PROFILES = 7", "gave a int, expected the path of a TOML profile or of a folder of them"),
        ("PROFILES = HERE / 'none'", "none, which does not exist"),
        ("PROFILES = HERE / 'empty'; PROFILES.mkdir(exist_ok=True)", "empty, which holds no *.toml"),
    ],
)
def test_a_broken_plugin_is_named_and_stops_no_other_target(install: Install, module: str, says: str) -> None:
    install(module)
    assert load_target("rtx-4090").name == "rtx-4090"
    for ask in (target_names, lambda: load_target("acme-one")):
        with pytest.raises(TargetError) as caught:
            ask()
        assert caught.value.message.startswith("plug-in `boards` of edgeprune.targets (acme_boards_")
        assert says in caught.value.message
        assert caught.value.hint == "repair or uninstall the package that brings `boards`"


def test_a_wrong_profile_of_a_plugin_names_the_plugin_and_the_field(install: Install) -> None:
    site = install("PROFILES = HERE / 'boards'")
    path = _profile(site / "boards", "acme-one", **{"sms = 128": "smz = 128"})
    with pytest.raises(TargetError) as caught:
        target_names()
    assert caught.value.message == (
        f"plug-in `boards` of edgeprune.targets: target profile {path} has an unknown field `smz`"
    )
    assert caught.value.hint == "did you mean `sms`?"


@pytest.mark.parametrize("taken", ["rtx-4090", "jetson-orin"])
def test_a_plugin_cannot_take_a_name_of_ours(install: Install, taken: str) -> None:
    site = install("PROFILES = HERE / 'boards'")
    path = _profile(site / "boards", taken)
    with pytest.raises(TargetError) as caught:
        target_names()
    assert caught.value.message == (
        f"plug-in `boards` of edgeprune.targets: target profile {path} claims the name `{taken}`, which is taken"
    )
    assert load_target(taken).profile != "boards"
