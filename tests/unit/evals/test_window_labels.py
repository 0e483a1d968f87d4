from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_text_model import tiny_tokenizer

from monoscope.core.errors import MismatchError
from monoscope.evals import python_labels, window_labels
from monoscope.harvest import TokenWindows

SOURCES = [
    'def f(x):\n    """One\n    two."""\n    return (x,\n            1)\n',
    "",
    "a = 'open\n",
    "# größe\nb = [1]\n",
]


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.mark.parametrize("bos", ["window", "document", "none"])
@pytest.mark.parametrize("context", [5, 16, 400])
def test_every_token_has_the_label_of_its_whole_document(tokenizer, bos, context):
    windows = TokenWindows.from_text(SOURCES, tokenizer, context=context, bos=bos)
    labels = window_labels(windows, SOURCES, tokenizer)
    assert labels.flags.shape[:2] == tuple(windows.tokens.shape)
    specials = torch.isin(windows.tokens, torch.tensor(tokenizer.all_special_ids)).numpy()
    parts = []
    for text in (SOURCES[0], SOURCES[3]):
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        parts.append(python_labels(text, spans).flags)
    assert np.array_equal(labels.flags[labels["parsed"]], np.concatenate(parts))
    assert not labels.flags[specials].any()
    broken = len(tokenizer(SOURCES[2], add_special_tokens=False)["input_ids"])
    assert (~labels["parsed"] & ~specials).sum() == broken, "what is not Python has no label"


def test_windows_that_stop_within_a_document(tokenizer):
    windows = TokenWindows.from_text(SOURCES, tokenizer, context=8, tokens=24)
    labels = window_labels(windows, SOURCES, tokenizer)
    assert labels["docstring"].any()
    assert labels["parsed"].sum() == 3 * 7


def test_other_documents_are_an_error(tokenizer):
    windows = TokenWindows.from_text(SOURCES, tokenizer, context=16)
    with pytest.raises(MismatchError, match="do not hold document 3 where it should begin"):
        window_labels(windows, [*SOURCES[:3], "other"], tokenizer)
    with pytest.raises(MismatchError, match="go on after the last document"):
        window_labels(windows, SOURCES[:3], tokenizer)
