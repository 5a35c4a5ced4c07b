"""What a visitor says aloud, in the form in which Chainlit's page records it."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from typing import Any

_RATE = 24_000  # of samples a second, as `features.audio.sample_rate` has it by default
_WIDTH = 2  # bytes of a sample
_CHUNK = 0.1  # seconds


def read_speech(file: str | os.PathLike[str]) -> bytes:
    """Return the samples of a WAV file.

    Args:
        file: WAV, mono, 16 bits, 24,000 samples a second.

    Raises:
        ValueError: it is none.
        OSError: it cannot be read.
    """
    wanted = "WAV, mono, 16 bits, 24000 samples a second expected"
    try:
        with wave.open(os.fspath(file), "rb") as recording:
            found = (recording.getnchannels(), recording.getsampwidth(), recording.getframerate())
            if found != (1, _WIDTH, _RATE):
                raise ValueError(
                    f"{file} has {found[0]} channels, {found[1] * 8} bits and"
                    f" {found[2]} samples a second: {wanted}"
                )
            return recording.readframes(recording.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{file} is no recording ({error}): {wanted}") from None


def chunks_of(samples: bytes) -> Iterator[dict[str, Any]]:
    """Yield the events in which the page sends a recording."""
    size = int(_RATE * _CHUNK) * _WIDTH
    for start in range(0, len(samples), size):
        yield {
            "isStart": start == 0,
            "mimeType": "pcm16",
            "elapsedTime": start / (_RATE * _WIDTH) * 1000,
            "data": samples[start : start + size],
        }
