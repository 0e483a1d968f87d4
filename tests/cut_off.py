"""Runs tests in a place without a network: ``unshare --user --map-root-user --net python cut_off.py TEST...``."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import sys

import pytest

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
ELSEWHERE = ("192.0.2.1", 80)  # an address that is nobody's


def switch_on_loopback() -> None:
    """Give the namespace an address of its own, 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))


def check_there_is_no_way_out() -> None:
    """Raises AssertionError if anything but this machine can be reached."""
    with socket.socket() as out:
        found = out.connect_ex(ELSEWHERE)
    assert found == errno.ENETUNREACH, f"connecting elsewhere answers {errno.errorcode.get(found, found)}"


if __name__ == "__main__":
    switch_on_loopback()
    check_there_is_no_way_out()
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--jaxtyping-packages=", *sys.argv[1:]]))
