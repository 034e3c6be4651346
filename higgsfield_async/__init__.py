"""An asyncio SDK for Higgsfield's image and video generation, over the reseller proxy or the platform itself."""

import msgspec

from higgsfield_async._client import Higgsfield
from higgsfield_async._domain import (
    AvatarPreset,
    Estimate,
    Job,
    JobSet,
    JobStatus,
    Media,
    Motion,
    SoulStyle,
    Sound,
    TaskRef,
    Upload,
    Voice,
)
from higgsfield_async._errors import (
    ApiError,
    AuthenticationFailed,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    ContentRejected,
    DownloadError,
    FieldError,
    GenerationCanceled,
    GenerationError,
    GenerationFailed,
    HiggsfieldError,
    InsufficientCredits,
    InvalidRequest,
    MalformedResponse,
    NotCancelable,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
    SubmissionUnknown,
    Unsupported,
    UploadError,
    WaitTimeout,
)
from higgsfield_async._fanout import Outcome, Outcomes, Stats
from higgsfield_async._limits import Limits
from higgsfield_async._polling import PollPolicy
from higgsfield_async._requests import (
    Ad,
    DopMotion,
    DopVideo,
    GenerationRequest,
    ImageToVideo,
    Keyframes,
    ModelRequest,
    Soul,
    Speak,
    Speech,
    TalkingHead,
    Webhook,
)
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._task import GenerationTask
from higgsfield_async._transports import PlatformTransport, ProxyTransport, Transport

__all__ = [
    "Ad",
    "ApiError",
    "AuthenticationFailed",
    "AvatarPreset",
    "ClientClosed",
    "ConfigurationError",
    "ConnectionFailed",
    "ContentRejected",
    "DopMotion",
    "DopVideo",
    "DownloadError",
    "Estimate",
    "FieldError",
    "GenerationCanceled",
    "GenerationError",
    "GenerationFailed",
    "GenerationRequest",
    "GenerationTask",
    "Higgsfield",
    "HiggsfieldError",
    "ImageToVideo",
    "InsufficientCredits",
    "InvalidRequest",
    "Job",
    "JobSet",
    "JobStatus",
    "Keyframes",
    "Limits",
    "MalformedResponse",
    "Media",
    "ModelRequest",
    "Motion",
    "NotCancelable",
    "NotFound",
    "Outcome",
    "Outcomes",
    "PermissionDenied",
    "PlatformTransport",
    "PollPolicy",
    "ProxyTransport",
    "RateLimited",
    "RetryPolicy",
    "ServiceUnavailable",
    "Soul",
    "SoulStyle",
    "Sound",
    "Speak",
    "Speech",
    "Stats",
    "SubmissionUnknown",
    "TalkingHead",
    "TaskRef",
    "Transport",
    "Unsupported",
    "Upload",
    "UploadError",
    "Voice",
    "WaitTimeout",
    "Webhook",
]

# Tracebacks and reprs name what a user imports, not where it happens to be written. Not so the structs: msgspec reads
# their annotations in the module that they name, when it first needs them.
for _value in [globals()[name] for name in __all__]:
    if isinstance(_value, type) and not issubclass(_value, msgspec.Struct):
        _value.__module__ = __name__
