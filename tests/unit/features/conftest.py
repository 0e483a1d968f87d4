from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_worlds import Text, lookup
from torch import Tensor

from monoscope.features import Analysis, FeatureBundle, analyze


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., FeatureBundle]:
    """Analyze activations ``[n, F]`` on tokens ``[sequences, length]``; settings of the analysis by keyword."""
    made = 0

    def build(
        tokens: Tensor, table: np.ndarray, text: dict[str, Any] | None = None, /, **settings: Any
    ) -> FeatureBundle:
        nonlocal made
        made += 1
        config = Analysis(**settings)
        return analyze(lookup(table), Text(tokens, **(text or {})), tmp_path / f"{made}.mono", config=config)

    return build
