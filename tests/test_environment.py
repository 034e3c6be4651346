"""Which service the environment names."""

from __future__ import annotations

from typing import Any

import pytest

from higgsfield_async import ConfigurationError, Higgsfield, PlatformTransport, PollPolicy, ProxyTransport
from higgsfield_async._transports import transport_from

PROXY = {"HIGGSFIELD_PROXY_KEY": "hk-1"}
PLATFORM = {"HF_KEY": "id:se:cr:et"}


@pytest.mark.parametrize(
    ("environment", "service", "expected"),
    [
        (PROXY, None, ProxyTransport("hk-1")),
        (PROXY | {"HIGGSFIELD_PROXY_BASE_URL": "http://a.b/c"}, None, ProxyTransport("hk-1", "http://a.b/c")),
        (PROXY | {"HF_KEY": ""}, None, ProxyTransport("hk-1")),
        (PLATFORM, None, PlatformTransport("id", "se:cr:et")),
        (PLATFORM | {"HIGGSFIELD_BASE_URL": "http://a.b"}, None, PlatformTransport("id", "se:cr:et", "http://a.b")),
        (PLATFORM | {"HF_API_KEY": "x", "HF_API_SECRET": "y"}, None, PlatformTransport("id", "se:cr:et")),
        ({"HF_API_KEY": "id", "HF_API_SECRET": "s"}, None, PlatformTransport("id", "s")),
        ({"HF_API_KEY": "id", "HF_API_SECRET": "s", "HF_CREDENTIALS": "a:b"}, None, PlatformTransport("id", "s")),
        ({"HF_CREDENTIALS": "a:b"}, None, PlatformTransport("a", "b")),
        ({"HF_CREDENTIALS": "a:b", "HF_API_KEY": "half"}, None, PlatformTransport("a", "b")),
        (PROXY | PLATFORM, "proxy", ProxyTransport("hk-1")),
        (PROXY | PLATFORM, "platform", PlatformTransport("id", "se:cr:et")),
    ],
)
def test_what_is_chosen(
    environment: dict[str, str], service: Any, expected: ProxyTransport | PlatformTransport
) -> None:
    found = transport_from(environment, service)
    assert vars(found) == vars(expected)
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("environment", "service", "words"),
    [
        ({}, None, "no key.*HF_KEY.*HIGGSFIELD_PROXY_KEY"),
        (PROXY | PLATFORM, None, "both services.*Choose with service="),
        (PROXY | {"HF_API_KEY": "hugging-face"}, None, "both services"),
        ({}, "proxy", "HIGGSFIELD_PROXY_KEY is not set"),
        (PLATFORM, "proxy", "HIGGSFIELD_PROXY_KEY is not set"),
        ({}, "platform", "set HF_KEY"),
        (PROXY, "platform", "set HF_KEY"),
        ({"HF_API_KEY": "id"}, None, "HF_API_KEY is set and HF_API_SECRET is not"),
        ({"HF_API_SECRET": "s"}, None, "HF_API_SECRET is set and HF_API_KEY is not"),
        ({"HF_KEY": "hf_abc"}, None, "HF_KEY must be “id:secret”"),
        ({"HF_KEY": ":secret"}, None, "HF_KEY must be"),
        ({"HF_KEY": "id:"}, None, "HF_KEY must be"),
        ({"HF_CREDENTIALS": "x"}, None, "HF_CREDENTIALS must be"),
        (PROXY, "vendor", "service must be"),
    ],
)
def test_what_is_missing_is_said(environment: dict[str, str], service: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        transport_from(environment, service)
    for secret in ("hf_abc", "hk-1", "se:cr:et", "hugging-face"):
        assert secret not in str(caught.value)


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_KEY", "HF_API_KEY", "HF_API_SECRET", "HF_CREDENTIALS", "HIGGSFIELD_PROXY_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIGGSFIELD_PROXY_KEY", "hk-1")
    hf = Higgsfield.from_env(poll=PollPolicy.fixed(1))
    assert repr(hf) == (
        f"Higgsfield(ProxyTransport(base_url='https://api.openai-hk.com', account='{ProxyTransport('hk-1').account}'), "
        f"new)"
    )
