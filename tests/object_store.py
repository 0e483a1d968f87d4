"""A store of objects that speaks S3, on this machine: moto's server, started for the tests and ended with them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO

import pytest

BUCKET = "monoscope-tests"


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server without buckets, on a port of its own choice."""
    with TemporaryFile("w+") as told:
        command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told)
        try:
            while (found := re.search(r"Running on (http://127.0.0.1:\d+)", _text(told))) is None:
                assert server.poll() is None, f"the server ended before it was there: {_text(told)}"
                time.sleep(0.02)
            yield found[1]
        finally:
            server.kill()
            server.wait()


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def credentials(address: str) -> dict[str, str]:
    """The environment in which s3:// means the server."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """``s3://BUCKET`` on a server of this machine."""
    import fsspec

    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(address).items():
            patch.setenv(name, value)
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.mkdir(BUCKET)
        yield f"s3://{BUCKET}"
        type(store).clear_instance_cache()
