"""Settings: flag over environment over file over default, and every mistake by name."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tessera.cli.serve import run_config_show
from tessera.errors import ModelNotFoundError, UsageError
from tessera.server import run
from tessera.server.run import open_model
from tessera.server.settings import OTHER_NAMES, Settings, api_keys, describe, resolve_settings
from tessera.server.vllm_names import FIXED
from tessera.shelf import ModelSource
from tessera.sources import ImageLimits

# The command lines that vLLM's own pages and people's guides to Pixtral print.
VLLM_LINES = (
    "mistralai/Pixtral-12B-2409 --tokenizer_mode mistral --limit_mm_per_prompt image=4 --max-model-len 32768",
    "mistralai/Pixtral-12B-2409 --config-format mistral --load-format mistral --tensor-parallel-size 1 --seed 0",
    "m --served-model-name a b --api-key k l --host 0.0.0.0 --port 80 --dtype half --max-num-seqs 16 -tp 1",
    "m --enable-auto-tool-choice --tool-call-parser mistral --no-enable-log-requests --disable-log-requests",
    "m --kv-cache-memory-bytes 4G --gpu-memory-utilization 0.9 --no-enable-prefix-caching --enable-chunked-prefill",
    "m --max-num-batched-tokens 8k --kv-cache-dtype int8 --quantization none --block-size 32 --enforce-eager",
    "m --allowed-local-media-path /srv --allowed-media-domains a.org b.org --max-num-queued-reqs 9 --uds /tmp/s",
    'm --speculative-config {"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":5,"prompt_lookup_min":3}',
    "m --enable-lora --lora-modules a=/x b=/y --max-loras 2 --max-lora-rank 64 --max-cpu-loras 4 --lora-dtype auto",
    'm --enable-lora --lora-modules {"name":"a","path":"/x,y","base_model_name":"m"} c=/z --no-fully-sharded-loras',
    "m --shutdown-timeout 30 --root-path /v --revision main --download-dir /m --disable-uvicorn-access-log",
)


def shown(line: str) -> dict[str, list[str]]:
    """What `tessera config show` prints for these flags: value and origin by name."""
    with redirect_stdout(io.StringIO()) as text:
        run_config_show(line.split())
    return {row.split()[0]: row.split()[1:] for row in text.getvalue().splitlines()}


def test_the_nearer_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nhost: 0.0.0.0\ndtype: float32\nlimit-mm-per-prompt: {image: 3}\n")
    environment = {"TESSERA_PORT": "2", "TESSERA_DTYPE": "bfloat16", "OTHER": "x", "TESSERA_DEBUG": "1"}
    settings, origins = resolve_settings({"port": "3"}, environment, file)
    assert (settings.port, settings.dtype, settings.host) == (3, "bfloat16", "0.0.0.0")
    assert settings.limit_mm_per_prompt == 3
    assert [origins[name] for name in ("port", "dtype", "host", "uds")] == [
        "flag", "environment", str(file), "default"
    ]  # fmt: skip
    assert resolve_settings({}, {"TESSERA_CONFIG": str(file)})[0].port == 1


@pytest.mark.parametrize(
    ("flags", "environment", "says"),
    [
        ({"port": "x"}, {}, r"port \(flag\) must be a whole number"),
        ({"port": "70000"}, {}, "port.*at most 65535"),
        ({"max_num_seqs": True}, {}, "max_num_seqs.*whole number"),
        ({}, {"TESSERA_PROT": "1"}, "'prot'.*did you mean port"),
        ({"speculative_config": "x"}, {}, "speculative_config.*must be a JSON object"),
        ({"speculative_config": {"method": "eagle"}}, {}, "speculative_config.*method 'eagle', and only ngram"),
        ({"speculative_config": '{"method": "ngram", "model": "m"}'}, {}, "speculative_config.*'model'.*not supported"),
        ({"speculative_config": {"method": "ngram", "prompt_lookup_min": 0}}, {}, "prompt_lookup_min.*at least 1"),
        ({"limit_mm_per_prompt": "video=3"}, {}, "limit_mm_per_prompt.*whole number"),
        ({"limit_mm_per_prompt": "image=3,video=1"}, {}, "limit_mm_per_prompt.*whole number"),
        ({"fetch_timeout_s": "nan"}, {}, "fetch_timeout_s.*finite"),
        ({"max_model_len": "3.0001k"}, {}, "max_model_len.*whole number"),
        ({"dtype": "int8"}, {}, "dtype.*'bfloat16'"),
        ({"kv-cache-dtype": "fp8_e4m3"}, {}, r"kv_cache_dtype \(flag\).*'int8'"),
        ({"root_path": "http://x/"}, {}, r"root_path.*such as /vision"),
        ({"kv_cache_bytes": "1G", "kv-cache-memory-bytes": "2G"}, {}, "contradicts.*kv_cache_bytes"),
        ({}, {"TESSERA_API_KEY": ""}, "api_key.*no key"),
        ({"api_key": [" , "]}, {}, "api_key.*no key"),
        ({}, {"TESSERA_PORT": "tcp://10.0.0.1:8000"}, "TESSERA_PORT.*enableServiceLinks"),
        ({}, {"TESSERA_PORT_8000_TCP_ADDR": "10.0.0.1"}, "Kubernetes.*enableServiceLinks"),
        ({"tensor_parallel_size": "0"}, {}, "tensor_parallel_size.*at least 1"),
        ({"pipeline_parallel_size": "2"}, {}, "pipeline_parallel_size.*'2', and only 1 is supported: .*--tensor-par"),
        ({"quantization": "fp8"}, {}, "quantization.*only none"),
        ({"trust_remote_code": True}, {}, "never run"),
        ({}, {"TESSERA_LORA_MODULES": "a=b"}, "lora_modules needs enable_lora"),
        ({"enable_lora": True}, {"TESSERA_LORA_MODULES": "a"}, r"lora_modules \(environment\)"),
        ({"enable_lora": True, "lora_modules": ["a=b", "a=c"]}, {}, r"lora_modules \(flag\)"),
        ({"enable_lora": True, "lora_modules": ['{"name": "a", "path": "b", "scale": 2}']}, {}, "lora_modules"),
        ({"enable_lora": True, "max_loras": "65"}, {}, "max_loras.*at most 64"),
        ({"disable_log_requests": False}, {}, "never holds"),
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


@pytest.mark.parametrize("value", ["8", "image=8", '{"image": 8}', '{"image": {"count": 8}}', "image=8,video=0", 8])
def test_the_image_limit_is_taken_as_vllm_writes_it(value: str) -> None:
    assert resolve_settings({"limit_mm_per_prompt": value}, {})[0].limit_mm_per_prompt == 8


@pytest.mark.parametrize(
    ("text", "tokens"), [("25.6k", 25_600), ("32K", 32_768), ("1m", 10**6), ("77", 77), ("auto", None)]
)
def test_large_numbers_are_taken_as_vllm_writes_them(text: str, tokens: int | None) -> None:
    assert resolve_settings({"max_model_len": text}, {})[0].max_model_len == tokens


@pytest.mark.parametrize("line", VLLM_LINES)
def test_command_lines_written_for_vllm_are_taken(line: str) -> None:
    assert shown(line)["model"][1] == "flag"


def test_what_such_a_line_means() -> None:
    rows = shown(VLLM_LINES[2])
    assert rows["served_model_name"] == ["a,b", "flag"]
    assert rows["dtype"] == ["float16", "flag"]
    assert rows["api_key"] == ["(2", "keys,", "not", "shown)", "flag"]
    rows = shown(VLLM_LINES[4])
    assert rows["kv_cache_bytes"] == [str(4 * 2**30), "flag"]
    assert rows["enable_prefix_caching"] == ["false", "flag"]
    assert shown(VLLM_LINES[-1])["access_log"] == ["false", "flag"]
    assert shown(VLLM_LINES[9])["lora_modules"] == ["a=/x,y,c=/z", "flag"]
    assert rows["max_model_len"] == ["auto", "default"]
    rows = shown(VLLM_LINES[7])
    assert [rows[f"prompt_lookup_{name}"] for name in ("min", "max")] == [["3", "flag"], ["5", "flag"]]
    assert rows["num_speculative_tokens"] == ["4", "flag"]


@pytest.mark.parametrize(("name", "fixed"), FIXED.items())
def test_a_flag_with_one_meaning_takes_nothing_else(name: str, fixed: Any) -> None:
    assert name not in Settings.model_fields
    for value in fixed.accepted:
        assert resolve_settings({name: value}, {})[0] == resolve_settings({}, {})[0]
    with pytest.raises(UsageError, match=f"{name}.*supported: "):
        resolve_settings({name: "something-else"}, {})


def test_help_by_word() -> None:
    with redirect_stdout(io.StringIO()) as text:
        run_config_show(["--help=cache"])
    assert "--kv-cache-bytes" in text.getvalue()
    assert "--port" not in text.getvalue()
    with pytest.raises(UsageError, match="no setting"):
        run_config_show(["--help=zebra"])


def test_keys_come_from_both_places_and_are_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nthird\n\n")
    settings, origins = resolve_settings({"api_key": ["first,second"], "api_key_file": str(file)}, {})
    assert api_keys(settings) == ("first", "second", "third")
    assert "first" not in str(describe(settings, origins))
    file.write_text("# none\n")
    with pytest.raises(UsageError, match="holds no key"):
        api_keys(Settings(api_key_file=file))


def test_an_empty_path_is_no_path() -> None:
    # Path("") would be the folder that the server was started in.
    settings, _ = resolve_settings({}, {"TESSERA_ALLOWED_LOCAL_MEDIA_PATH": "", "TESSERA_UDS": ""})
    assert settings.allowed_local_media_path is None
    assert settings.uds is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config_format": "hf"}, "config_format is hf.*layout mistral"),
        ({"revision": "main"}, "leave out revision"),
        ({"download_dir": Path("/tmp")}, "and download_dir"),
        ({"gpu_memory_utilization": 0.5, "device": "cpu"}, "kv_cache_bytes"),
        ({"block_size": 24}, "use 16 or 32"),
        ({"kv_cache_dtype": "float16"}, "computes in float32; use 'auto', 'float32' or 'int8'"),
    ],
)
def test_what_only_the_model_can_tell_is_checked_with_it(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_model(Settings(**changes))


def test_a_model_is_looked_for_in_the_given_cache(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"HF_HUB_CACHE={tmp_path} tessera download a/b --revision v1"):
        open_model(Settings(model="a/b", revision="v1", download_dir=tmp_path))


def test_every_setting_of_the_model_goes_to_where_it_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        run, "LLM", lambda source, *, limits, progress, **options: told.update(source=source, limits=limits, **options)
    )
    named = {"dtype": "float32", "device": "cpu", "mmproj": tmp_path, "tensor_parallel_size": 2}
    images = {"max_image_pixels": 5, "max_image_bytes": 6, "fetch_timeout_s": 7.0, "allow_private_addresses": True}
    images |= {"allowed_media_domains": ("a.org",), "allowed_local_media_path": tmp_path, "image_proxy": "http://p:1"}
    engine = {"max_model_len": 1, "max_num_seqs": 2, "max_num_batched_tokens": 3, "kv_cache_bytes": 4, "block_size": 16}
    engine |= {"image_cache_bytes": 5, "kv_cache_dtype": "int8", "gpu_memory_utilization": 0.5, "seed": 6}
    engine |= {"num_speculative_tokens": 7, "prompt_lookup_min": 8, "prompt_lookup_max": 9, "limit_mm_per_prompt": 10}
    engine |= {"max_num_queued_reqs": 11, "enable_prefix_caching": False, "enforce_eager": True, "vision_bits": "8"}
    open_model(Settings(**named, **images, **engine))
    assert told.pop("source") == ModelSource(name="nano", **named)
    assert told.pop("limits") == ImageLimits(
        max_pixels=5, max_bytes=6, fetch_timeout_s=7.0, allow_private_addresses=True, domains=("a.org",),
        local_files=tmp_path, proxy="http://p:1", flags=("max_pixels", "max_bytes"),
    )  # fmt: skip
    own = {OTHER_NAMES.get(name, name): value for name, value in engine.items() if name != "enforce_eager"}
    assert told == own | {"cuda_graphs": False}
    told.clear()
    open_model(Settings())
    assert told.pop("source") == ModelSource()
    assert told.pop("limits").local_files is None
    assert told == {
        "kv_cache_dtype": "auto",
        "enable_prefix_caching": True,
        "max_images_per_prompt": 8,
        "max_queued_requests": 256,
        "vision_bits": "16",
    }
