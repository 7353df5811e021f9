"""The short-lived child for what takes much memory: `python -m embedsearch.network.prepare TASK`.

Task `import` turns a file of weights into safetensors in the cache, and `towers` copies a folder of
ONNX files there; `convert` turns a model into OpenVINO's form, measures which precision is faster
here, and compiles it once; `quantize` makes an int8 form of that. As this process loads torch,
where it is needed, the indexing process needs less than half the memory. Arguments come as JSON on
stdin.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from embedsearch.core.model_spec import ModelSpec


def main() -> None:
    """Run one task; on failure print one line on stderr and exit with 1."""
    task, values = sys.argv[1], json.load(sys.stdin)
    try:
        _run(task, values)
    except OSError as error:
        where = error.filename or values["folder"]
        sys.exit(f"{where}: {error.strerror or error}; EMBEDSEARCH_CACHE moves the cache folder")
    except Exception as error:  # a hostile file can make torch raise anything
        sys.exit(" ".join(str(error).split())[:500] or type(error).__name__)


def _run(task: str, values: dict[str, Any]) -> None:
    folder = Path(values["folder"])
    if task == "import":
        from embedsearch.network.from_torch import import_weights

        import_weights(Path(values["file"]), folder)
    elif task == "towers":
        from embedsearch.network.onnx.folder import place_towers
        from embedsearch.network.onnx.graph import check_towers

        place_towers(Path(values["file"]), values["sha256"], folder, check_towers)
    elif task == "convert" and (spec := ModelSpec.from_dict(values["spec"])).is_of_towers:
        from embedsearch.network.onnx.graph import convert_towers

        convert_towers(Path(values["weights"]), folder)
    elif task == "convert":
        from embedsearch.network.from_torch import convert

        convert(spec, Path(values["weights"]), folder)
    elif task == "quantize":
        from embedsearch.network.quantize import quantize

        quantize(folder, values["side"])
    else:
        raise ValueError(f"unknown task {task!r}")


if __name__ == "__main__":
    main()
