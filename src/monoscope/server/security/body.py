"""Bodies of requests: read up to a limit, and JSON that is plain: not too deep, no NaN, no half characters."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

from monoscope.server.problems import ProblemError

MAX_DEPTH = 32
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class DisconnectedError(Exception):
    """The client went away before its request was whole."""


async def read_body(receive: Receive, stated: str | None, most: int) -> bytes:
    """The body of a request. Raises ProblemError as soon as it is larger than ``most`` bytes, stated or not."""
    if stated is not None and (not stated.isascii() or not stated.isdigit() or int(stated[:20]) > most):
        raise _too_large(most)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def check_json(body: bytes) -> None:
    """Raises ProblemError for what is not JSON as RFC 8259 has it, or nested deeper than 32 levels."""
    try:
        value = json.loads(body, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError:
        raise ProblemError(400, "the body holds half of a surrogate pair, which is no character") from None
    except ValueError as error:
        raise ProblemError(400, f"the body is not JSON: {str(error)[:200]}") from None
    if _is_deeper(value, MAX_DEPTH):
        raise _too_deep()


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body once more, and then what really comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return again


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON has")


def _too_large(most: int) -> ProblemError:
    return ProblemError(413, f"the request is larger than {most:,} bytes", expected=f"at most {most} bytes")


def _too_deep() -> ProblemError:
    return ProblemError(
        422, f"the body is nested deeper than {MAX_DEPTH} levels", expected=f"at most {MAX_DEPTH} levels"
    )
