"""What a notebook's elements are given is what the server gives, where it gives it."""

from __future__ import annotations

import json

import httpx
import pytest

from monoscope.features import FeatureBundle
from monoscope.features.drawn import drawn

FEATURES = "/dictionaries/some-run/features"


@pytest.mark.parametrize("index", [0, 7, 295])
def test_records_are_the_server_s(client: httpx.Client, bundle: FeatureBundle, index: int) -> None:
    record = json.loads(json.dumps(drawn(bundle.feature(index), bundle.special), allow_nan=False))
    feature = client.get(f"{FEATURES}/{index}").json()
    contexts = client.get(f"{FEATURES}/{index}/contexts", params={"limit": 1000}).json()
    assert record == {"feature": {key: feature[key] for key in record["feature"]}, "contexts": contexts}
