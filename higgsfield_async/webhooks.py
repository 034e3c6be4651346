"""Webhooks of the platform: is this one genuine, and what does it say?

::

    event = webhooks.unwrap(body, headers, secrets="whsec_…")
    hf.deliver(event)

It needs the extra `webhooks`: `pip install 'higgsfield-async[webhooks]'`.

The platform signs its deliveries as https://www.standardwebhooks.com describes, from the day that the account's secret
was first shown in its console; those of v1 carry the secret that was given with the submit. A delivery that is not
answered with 2xx within 10 seconds is made again for up to two hours, unless it was answered with 4xx: so the same one
may come twice.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

from higgsfield_async._errors import ConfigurationError, WebhookError
from higgsfield_async._webhooks import WebhookEvent, read_event

try:
    from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook as Signed, WebhookVerificationError
except ImportError as error:
    message = f"Webhooks need what is missing ({error.name}): pip install 'higgsfield-async[webhooks]'."
    raise ConfigurationError(message) from error

__all__ = ["WebhookEvent", "unwrap"]

_PREFIX = "whsec_"


def unwrap(body: bytes, headers: Mapping[str, str], *, secrets: str | Iterable[str] = ()) -> WebhookEvent:
    """Verifies a webhook and reads it.

    Args:
        body: The raw body, byte for byte: a signature holds for nothing else.
        headers: The headers of the request, in any case.
        secrets: The account's signing secret, `whsec_…`; two while one replaces the other; and, for v1, what was given
            as `Webhook(url, secret)`. Without any, nothing is verified: `deliver` then takes the event as a hint
            to look at the generation, since anybody may have sent it.

    Raises:
        WebhookError: None of the secrets fits, or it is not signed at all (status 401); its time is more than five
            minutes off (401); it cannot be read (400).
        ConfigurationError: A secret has not the form of one.
    """
    secrets = checked_secrets(secrets)
    headers = {name.lower(): value for name, value in headers.items()}
    if secrets:
        _verify(body, headers, secrets)
    return read_event(body, headers, verified=bool(secrets))


def checked_secrets(secrets: str | Iterable[str]) -> tuple[str, ...]:
    """The secrets, each in the form of one.

    Raises:
        ConfigurationError: One has not. An empty one is none: what is to be left unchecked is said with `()`.
    """
    checked = (secrets,) if isinstance(secrets, str) else tuple(secrets)
    for secret in checked:
        if type(secret) is not str or not secret:
            msg = "A webhook secret must be a string, and not empty: give () where there is none."
            raise ConfigurationError(msg)
        if secret.startswith(_PREFIX):
            _signer(secret)
    return checked


def _verify(body: bytes, headers: dict[str, str], secrets: tuple[str, ...]) -> None:
    signers = [_signer(secret) for secret in secrets if secret.startswith(_PREFIX)]
    given = headers.get("x-webhook-secret-key", "").encode(errors="surrogateescape")
    why = "it has neither a signature nor a secret that could be checked"
    if "webhook-signature" in headers:
        for signer in signers:
            try:
                signer.verify(body, headers, json_parse=False)
            except WebhookVerificationError as error:
                why = str(error)
            except ValueError:
                why = "its signature cannot be read"
            else:
                return
    elif given:
        # All are compared, so that the time it takes tells nothing.
        fits = [hmac.compare_digest(given, each.encode()) for each in secrets if not each.startswith(_PREFIX)]
        if any(fits):
            return
        why = "its secret is another"
    msg = f"A webhook was refused: {why}. Are these the account's current secrets, and this machine's clock right?"
    raise WebhookError(msg, status=401)


def _signer(secret: str) -> Signed:
    try:
        return Signed(secret)
    except (ValueError, EmptyWebhookSecretError):
        msg = "A webhook secret must be “whsec_” and then base64, as the platform's console shows it."
        raise ConfigurationError(msg) from None
