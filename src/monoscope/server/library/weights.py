"""Fingerprint of a dictionary's file of weights, computed from its bytes: no model code, no torch.

    SHA-256 over "name dtype shape" and the bytes of each tensor, in the order of their names

the same as ``Dictionary.fingerprint`` of the loaded dictionary, which is how a bundle finds the dictionary it is of.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

from monoscope.core.errors import DataError

MAX_HEADER = 100_000_000
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
BLOCK = 1 << 24


def fingerprint_weights(path: Path) -> str:
    """The fingerprint of a safetensors file. Raises DataError for one that is not whole."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size = int.from_bytes(data[:8], "little")
            if not 2 <= size <= min(MAX_HEADER, len(data) - 8):
                raise DataError(f"{path} is not a whole safetensors file")
            header: dict[str, Any] = json.loads(data[8 : 8 + size])
            digest = hashlib.sha256()
            for name in sorted(header.keys() - {"__metadata__"}):
                tensor = header[name]
                start, stop = tensor["data_offsets"]
                digest.update(f"{name} torch.{DTYPES[tensor['dtype']]} {tuple(tensor['shape'])}".encode())
                for at in range(8 + size + start, 8 + size + stop, BLOCK):
                    digest.update(data[at : min(at + BLOCK, 8 + size + stop)])
            return digest.hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a whole safetensors file ({error})") from None
