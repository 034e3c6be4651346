"""Which service the environment names, and what is missing when it names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from higgsfield_async._errors import ConfigurationError
from higgsfield_async._transports._base import Transport
from higgsfield_async._transports._platform import PlatformTransport
from higgsfield_async._transports._proxy import ProxyTransport

Service = Literal["proxy", "platform"]


def transport_from(environment: Mapping[str, str], service: Service | None = None) -> Transport:
    """The transport that the environment describes.

    The platform's key: `HF_KEY` ("id:secret"), else `HF_API_KEY` and `HF_API_SECRET`, else `HF_CREDENTIALS` in the form
    of the first. The proxy's key: `HIGGSFIELD_PROXY_KEY`. Addresses: `HIGGSFIELD_BASE_URL` and
    `HIGGSFIELD_PROXY_BASE_URL`. An empty variable counts as none.

    Raises:
        ConfigurationError: There is no key, half a key, or one for each service and no `service` to choose.
    """
    if service not in (None, "proxy", "platform"):
        msg = f"service must be 'proxy' or 'platform', not {service!r}."
        raise ConfigurationError(msg)
    proxy = bool(environment.get("HIGGSFIELD_PROXY_KEY"))
    platform = any(environment.get(name) for name in ("HF_KEY", "HF_API_KEY", "HF_API_SECRET", "HF_CREDENTIALS"))
    if service is None:
        if proxy and platform:
            msg = (
                "The environment holds keys for both services: HIGGSFIELD_PROXY_KEY and a platform key (HF_…). "
                "Choose with service='proxy' or service='platform'."
            )
            raise ConfigurationError(msg)
        if not proxy and not platform:
            msg = (
                "The environment holds no key. For the platform set HF_KEY to “id:secret” (or HF_API_KEY and "
                "HF_API_SECRET); for the proxy set HIGGSFIELD_PROXY_KEY."
            )
            raise ConfigurationError(msg)
        service = "proxy" if proxy else "platform"
    return _proxy(environment) if service == "proxy" else _platform(environment)


def _proxy(environment: Mapping[str, str]) -> ProxyTransport:
    key = environment.get("HIGGSFIELD_PROXY_KEY")
    if not key:
        msg = "HIGGSFIELD_PROXY_KEY is not set: it holds the proxy's key, hk-…."
        raise ConfigurationError(msg)
    base_url = environment.get("HIGGSFIELD_PROXY_BASE_URL")
    return ProxyTransport(key, base_url) if base_url else ProxyTransport(key)


def _platform(environment: Mapping[str, str]) -> PlatformTransport:
    key_id, secret = _pair(environment)
    base_url = environment.get("HIGGSFIELD_BASE_URL")
    return PlatformTransport(key_id, secret, base_url) if base_url else PlatformTransport(key_id, secret)


def _pair(environment: Mapping[str, str]) -> tuple[str, str]:
    if environment.get("HF_KEY"):
        return _split("HF_KEY", environment["HF_KEY"])
    key_id, secret = environment.get("HF_API_KEY"), environment.get("HF_API_SECRET")
    if key_id and secret:
        return key_id, secret
    if environment.get("HF_CREDENTIALS"):
        return _split("HF_CREDENTIALS", environment["HF_CREDENTIALS"])
    if key_id or secret:
        there, missing = ("HF_API_KEY", "HF_API_SECRET") if key_id else ("HF_API_SECRET", "HF_API_KEY")
        msg = f"{there} is set and {missing} is not: the platform needs both, or HF_KEY as “id:secret”."
        raise ConfigurationError(msg)
    msg = "The platform's key is not set: set HF_KEY to “id:secret”, or HF_API_KEY and HF_API_SECRET."
    raise ConfigurationError(msg)


def _split(name: str, value: str) -> tuple[str, str]:
    # At the first colon alone: a secret may hold further ones.
    key_id, colon, secret = value.partition(":")
    if not (key_id and colon and secret):
        msg = f"{name} must be “id:secret”: it has no colon, or nothing on one side of it. (Hugging Face's is another.)"
        raise ConfigurationError(msg)
    return key_id, secret
