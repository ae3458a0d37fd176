"""Sizes that keep the code readable: of files, functions, parameters and folders. What is larger is named, and why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 300, 50, 6
DRAWN = "a drawing program: one kind of picture in all its variants"
WORDS = "mostly words and sentences, which are data"
TRITON = "a Triton kernel: pointers, strides and sizes are single arguments"
# Lines of a file, and why it is not divided.
FILES = {
    "tessera/containers.py": (440, "one walker for each format of image files"),
    "tessera/conversation.py": (330, "one format's rules, and the words for each refusal"),
    "tessera/engine/config.py": (310, "every option of the engine, settled one after the other"),
    "tessera/engine/engine.py": (380, "the step: what it calls is elsewhere already"),
    "tessera/engine/grammar.py": (460, "masks, the grammar they come from, and the words for each refusal"),
    "tessera/engine/ranks.py": (360, "the two halves of one protocol between processes"),
    "tessera/engine/schema.py": (430, "one function for each group of JSON Schema's keywords"),
    "tessera/fetch.py": (400, "one guarded connection, from the URL to the last byte"),
    "tessera/llm.py": (480, "the public interface, documented method by method"),
    "tessera/nano/pictures/charts_canvas.py": (850, DRAWN),
    "tessera/nano/pictures/charts_data.py": (460, WORDS),
    "tessera/nano/pictures/charts_questions.py": (900, WORDS),
    "tessera/nano/pictures/charts_vega.py": (490, DRAWN),
    "tessera/nano/pictures/pairs.py": (440, DRAWN),
    "tessera/nano/pictures/papers_canvas.py": (400, DRAWN),
    "tessera/nano/pictures/papers_form.py": (490, DRAWN),
    "tessera/nano/pictures/papers_sale.py": (450, DRAWN),
    "tessera/nano/pictures/papers_sale_layouts.py": (350, DRAWN),
    "tessera/nano/pictures/papers_sale_questions.py": (520, WORDS),
    "tessera/nano/pictures/papers_table.py": (530, DRAWN),
    "tessera/nano/pictures/scene_questions.py": (530, WORDS),
    "tessera/nano/pictures/text.py": (800, DRAWN),
    "tessera/nano/pictures/text_questions.py": (420, WORDS),
    "tessera/nano/pictures/typst.py": (470, DRAWN),
    "tessera/nano/pictures/words.py": (770, WORDS),
    "tessera/prompt.py": (480, "all that is known of mistral-common, in one place"),
    "tessera/raster.py": (390, "one path from bytes to pixels, for every mode and profile, in bounded memory"),
    "tessera/server/schemas.py": (430, "every field of every request, which are data"),
    "tessera/server/settings.py": (440, "every setting, half of which are data"),
    "tessera/weights/gguf/write.py": (360, "one foreign format, from a config to its keys"),
    "tessera/weights/published.py": (410, "three foreign formats that share their checks"),
}
# Lines of a function, and why.
FUNCTIONS = {
    "tessera/cli/app.py ask": (65, "a command's options, each with its help"),
    "tessera/cli/app_finetune.py finetune": (78, "a command's options"),
    "tessera/cli/app_compare.py compare": (54, "a command's options, each with its help"),
    "tessera/cli/app_documents.py extract": (77, "a command's options, each with its help"),
    "tessera/cli/app_documents.py transcribe": (56, "a command's options, each with its help"),
    "tessera/cli/app_search.py index": (65, "a command's options, each with its help"),
    "tessera/fetch.py fetch": (60, "the order of checks, which is the guard"),
    "tessera/fetch.py _guarded_backend": (80, "classes over a library that is imported only here"),
    "tessera/hub.py download": (75, "one download with its retries and its words for each failure"),
    "tessera/kernels/triton_paged_attention.py _attend_split": (75, TRITON),
    "tessera/kernels/triton_paged_attention.py paged_attention": (60, TRITON),
    "tessera/quantize/run.py quantize": (60, "the order of the steps"),
    "tessera/weights/hf.py write_config": (65, "the fields of a foreign config"),
}
# Parameters that may be given by position, and why.
PARAMETERS = {
    "tessera/kernels/paged_attention.py workspace_bytes": (7, "the sizes of one shape"),
    "tessera/kernels/triton_elementwise.py store": (7, "the caller of a Triton kernel, with its tensors"),
    "tessera/kernels/triton_paged_attention.py paged_attention": (7, "the kernels' common signature"),
    "tessera/nano/pictures/charts_canvas.py _write_at_end": (7, DRAWN),
    "tessera/nano/pictures/charts_data.py _on_axis": (7, DRAWN),
    "tessera/nano/pictures/charts_marks.py sector": (7, DRAWN),
    "tessera/nano/pictures/charts_marks.py write_turned": (7, DRAWN),
    "tessera/nano/pictures/pairs.py _priced": (8, DRAWN),
    "tessera/nano/pictures/text.py _title_bar": (7, DRAWN),
    "tessera/nano/pictures/text_sheet.py add": (10, DRAWN),
    "tessera/nano/train.py __init__": (9, "everything that a run consists of"),
    "tessera/weights/gguf/write.py write_pair": (7, "the parts of a model and its two files"),
    "benchmarks/gpu/kernels.py _kernel_line": (7, "the columns of a table"),
}
# Lines of a folder with all below it; of the two roots, of their own files. About a tenth is room.
FOLDERS = {
    "benchmarks": 2900,  # products of 16 bits on AVX2
    "benchmarks/gpu": 1000,
    "tessera": 7300,  # samples from documents whose values are known
    "tessera/bench": 1550,
    "tessera/cli": 6300,
    "tessera/cluster": 250,
    "tessera/documents": 8600,  # pixels of a mail's page
    "tessera/engine": 5200,
    "tessera/evals": 3200,
    "tessera/finetune": 2600,
    "tessera/kernels": 3600,  # products of 16 bits on AVX2: their call; attention's gradients in float32
    "tessera/linears": 340,
    "tessera/lora": 1100,
    "tessera/migration": 1550,
    "tessera/model": 1000,  # where attention in 8 bits is asked for
    "tessera/nano": 15_500,
    "tessera/parallel": 230,
    "tessera/quantize": 860,
    "tessera/search": 2800,
    "tessera/server": 9800,
    "tessera/training": 475,
    "tessera/weights": 3850,
}
Sizes = dict[str, int]


def python_files() -> Iterator[tuple[str, str]]:
    for top in ("tessera", "benchmarks"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def function_sizes() -> tuple[Sizes, Sizes]:
    """Lines and positional parameters of every function by file and name; of namesakes in a file, the most."""
    lines: Sizes = {}
    parameters: Sizes = {}
    for name, text in python_files():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                key, end = f"{name} {node.name}", node.end_lineno or node.lineno
                lines[key] = max(lines.get(key, 0), end - node.lineno + 1)
                given = [each for each in (*node.args.posonlyargs, *node.args.args) if each.arg not in ("self", "cls")]
                is_kernel = any("triton.jit" in ast.unparse(each) for each in node.decorator_list)
                parameters[key] = max(parameters.get(key, 0), 0 if is_kernel else len(given))
    return lines, parameters


def check(sizes: Sizes, limit: int, named: dict[str, tuple[int, str]]) -> None:
    limits = {key: named.get(key, (limit, ""))[0] for key in sizes}
    too_large = {key: f"{size}, limit {limits[key]}" for key, size in sizes.items() if size > limits[key]}
    assert not too_large, "make it smaller, or name it here with the reason"
    needless = {key for key in named if sizes.get(key, 0) <= limit}
    assert not needless, "these need no exception any more; remove them here"


def test_files_are_short() -> None:
    check({name: len(text.splitlines()) for name, text in python_files()}, MAX_FILE, FILES)


def test_functions_are_short_and_take_little_by_position() -> None:
    lines, parameters = function_sizes()
    check(lines, MAX_FUNCTION, FUNCTIONS)
    check(parameters, MAX_PARAMETERS, PARAMETERS)


def test_folders_stay_within_their_lines() -> None:
    sizes: Sizes = {}
    for name, text in python_files():
        folder = "/".join(name.split("/")[:-1][:2])
        sizes[folder] = sizes.get(folder, 0) + len(text.splitlines())
    assert sizes.keys() == FOLDERS.keys()
    assert {folder: size for folder, size in sizes.items() if size > FOLDERS[folder]} == {}
