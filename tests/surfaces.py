"""The three ways to submit, and a request for each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from higgsfield_async import ArgumentWarning, GenerationRequest, ImageToVideo, Keyframes, ModelRequest

PROMPT = "a white cat turns its head, very slowly"
IMAGE = "https://images.example.com/cat.jpg"
MOTION = "d2389a9a-91c2-4276-bc9c-c9e35e8fb85a"


@dataclass(frozen=True)
class Surface:
    name: str
    service: str
    request: GenerationRequest = field(repr=False)
    keyed: bool = False

    def __str__(self) -> str:
        return self.name


PROXY = Surface(
    "proxy", "proxy", ImageToVideo(model="turbo", motion_id=MOTION, prompt=PROMPT, images=[IMAGE], width=64, height=64)
)
V1 = Surface("v1", "platform", Keyframes(prompt=PROMPT))
V2 = Surface(
    "v2", "platform", ModelRequest("higgsfield-ai/dop/turbo", {"prompt": PROMPT, "image_url": IMAGE}), keyed=True
)
SURFACES = [PROXY, V1, V2]

with warnings.catch_warnings(action="ignore", category=ArgumentWarning):
    # What the service refuses.
    WRONG = ModelRequest("higgsfield-ai/dop/turbo", {})
