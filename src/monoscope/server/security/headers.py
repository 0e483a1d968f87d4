"""The headers that every answer carries: nothing from elsewhere runs, loads, frames or reads what is shown."""

from __future__ import annotations

from monoscope.server.settings import Settings


def content_policy(settings: Settings) -> str:
    """The Content-Security-Policy: everything is refused but what this server itself gives out."""
    frames = " ".join(["'self'", *settings.allow_frame])
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {frames}"
    )


def security_headers(settings: Settings) -> list[tuple[bytes, bytes]]:
    """Names and values, as ASGI sends them."""
    headers = {
        "content-security-policy": content_policy(settings),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "cross-origin" if settings.cors_origin else "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }
    return [(name.encode(), value.encode()) for name, value in headers.items()]
