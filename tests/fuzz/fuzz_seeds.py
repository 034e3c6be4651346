"""What the fuzzer begins with: the recorded answers of the services, and one good input of each other kind."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from decoders import CALLS, DECODERS
from higgsfield_async import TaskRef
from higgsfield_async._ledger import Spilled

TESTS = Path(__file__).resolve().parent.parent
# The second lies beside a checkout, or does not.
RECORDINGS = (TESTS / "recorded", TESTS.parents[1] / "shared" / "wire" / "payloads")
REF = TaskRef(
    transport="proxy",
    origin="https://api.example.com",
    account="0123456789ab",
    id="5c0ac5f8-b3ff-4161-a77b-c248f02bfeca",
    kind="ad",
    created_at=datetime(2026, 11, 22, tzinfo=UTC),
)
VIDEO = b'{"model":"lite","motion_id":"m","prompt":"a","images":["https://a.b/c.png"],"seed":3,"width":64,"height":64}'
OTHERS: dict[str, list[bytes]] = {
    "ref": [REF.to_json().encode()],
    "short ref": [REF.short.encode()],
    "webhook": [b'{"request_id":"a","status":"completed","video":{"url":"https://a.b/c.mp4"}}'],
    "signed webhook": [b"msg_1\n1800000000\nv1,AAAA v1a,BBBB", b"\n\n\na secret of v1"],
    "Retry-After": [b"5", b"1e3", b"Wed, 21 Oct 2026 07:28:00 GMT"],
    "ranges": [b'bytes 5-9/10\n5\n"tag"\nWed, 21 Oct 2026 07:28:00 GMT\nidentity'],
    "signature": [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF....WAVE", b"....ftypmp42", b"<!-- a --><svg"],
    "image": [b"https://a.b/c.png", b"data:image/png;base64,iVBORw0KGgo="],
    "request": [VIDEO],
    "model request": [b'{"model_id":"a/b","arguments":{"prompt":"a","image_url":"https://a.b/c.png"}}'],
    "arguments": [b'{"prompt":"a","image_url":"https://a.b/c.png","seed":1}'],
    "Last-Event-ID": [b"1-q.2-c!", b"f"],
    "spilled id": [msgspec.json.encode(Spilled(key="k", nonce="n", ref=REF))],
}


def write(corpus: Path) -> list[str]:
    """Writes the seeds of each decoder into a folder of its own, and names the folders: the decoders' numbers."""
    recorded = [path.read_bytes() for folder in RECORDINGS if folder.is_dir() for path in sorted(folder.iterdir())]
    for index, name in enumerate(DECODERS):
        (corpus / str(index)).mkdir(parents=True, exist_ok=True)
        # A call is given each answer, as status 200 and as 422.
        seeds = [bytes([first]) + body for body in recorded for first in (0, 11)] if name in CALLS else OTHERS[name]
        for seed in seeds:
            data = bytes([index]) + seed
            (corpus / str(index) / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return [str(index) for index in range(len(DECODERS))]
