"""Settings: flag over environment over file over default, and every mistake by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tessera.errors import UsageError
from tessera.server.settings import Settings, api_keys, describe, resolve_settings


def test_the_nearer_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nhost: 0.0.0.0\ndtype: float32\n")
    environment = {"TESSERA_PORT": "2", "TESSERA_DTYPE": "bfloat16", "OTHER": "x"}
    settings, origins = resolve_settings({"port": "3"}, environment, file)
    assert (settings.port, settings.dtype, settings.host) == (3, "bfloat16", "0.0.0.0")
    assert [origins[name] for name in ("port", "dtype", "host", "uds")] == [
        "flag", "environment", str(file), "default"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "environment", "says"),
    [
        ({"port": "x"}, {}, "port.*whole number"),
        ({"port": "70000"}, {}, "port.*at most 65535"),
        ({}, {"TESSERA_PROT": "1"}, "'prot'.*did you mean port"),
        ({"limit_mm_per_prompt": "video=3"}, {}, "limit_mm_per_prompt.*whole number"),
        ({"fetch_timeout_s": "nan"}, {}, "fetch_timeout_s"),
    ],
)
def test_mistakes_are_named(flags: dict[str, Any], environment: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        resolve_settings(flags, environment)


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "1: 2\n"])
def test_a_wrong_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"server\.yaml"):
        resolve_settings({}, {}, file)


@pytest.mark.parametrize("value", ["8", "image=8", '{"image": 8}', '{"image": {"count": 8}}'])
def test_the_picture_limit_is_taken_as_vllm_writes_it(value: str) -> None:
    assert resolve_settings({"limit_mm_per_prompt": value}, {})[0].limit_mm_per_prompt == 8


def test_keys_come_from_both_places_and_are_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nthird\n\n")
    settings, origins = resolve_settings({"api_key": ["first,second"], "api_key_file": str(file)}, {})
    assert api_keys(settings) == ("first", "second", "third")
    assert "first" not in str(describe(settings, origins))
    file.write_text("# none\n")
    with pytest.raises(UsageError, match="holds no key"):
        api_keys(Settings(api_key_file=file))
