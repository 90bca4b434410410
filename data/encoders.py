"""How alike items are, by their texts or images: what demonstrations are retrieved by.

An item is encoded by itself and not in a batch, so that its vector does not depend on which others
are encoded with it.

Axis suffixes: `P` items of the pool, `D` components of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtrl_judge.common.errors import JudgeError, first_line
from mtrl_judge.common.files import expanded

Floats: TypeAlias = NDArray[np.float64]
ImageEncoder: TypeAlias = Callable[[Image.Image], NDArray[Any]]
"""An image's vector, D; of any length."""
TextEncoder: TypeAlias = Callable[[str], NDArray[Any]]

_OWN_MODULES = "sentence_transformers."


class TfidfSimilarity:
    """Cosine similarities of texts to those of the pool, by TF-IDF of their words.

    Raises:
        JudgeError: no text of the pool has a word.
    """

    def __init__(self, texts_P: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
        try:
            self._pool_P_D = self._vectorizer.fit_transform(texts_P)
        except ValueError:  # an empty vocabulary
            raise JudgeError(
                "demonstrations: encoder: tfidf: no text of the training split has a word; "
                "expected texts that vary from row to row"
            ) from None

    def __call__(self, text: str) -> Floats:
        """Of one text to the pool, P."""
        found: Floats = (self._pool_P_D @ self._vectorizer.transform([text]).T).toarray()[:, 0]
        return found


class VectorSimilarity:
    """Cosine similarities by vectors; an item without any is similar to none."""

    def __init__(self, vectors_P: Sequence[Floats | None]) -> None:
        width = next((len(vector) for vector in vectors_P if vector is not None), 1)
        self._pool_P_D = np.stack(
            [np.zeros(width) if vector is None else vector for vector in vectors_P]
        )

    def __call__(self, vector: Floats | None) -> Floats:
        """Of one vector of length 1 to the pool, P."""
        if vector is None:
            return np.zeros(len(self._pool_P_D))
        found: Floats = self._pool_P_D @ vector
        return found


def mean_vector(vectors: Sequence[NDArray[Any]]) -> Floats | None:
    """The mean of vectors of length 1, scaled to length 1; None of none."""
    if not vectors:
        return None
    mean = np.mean([scaled(vector) for vector in vectors], axis=0)
    return scaled(mean)


def scaled(vector: NDArray[Any]) -> Floats:
    """A vector scaled to length 1."""
    exact = np.asarray(vector, dtype=np.float64)
    return exact / max(float(np.linalg.norm(exact)), 1e-12)


def sentence_encoders(name: str, *, images: bool) -> tuple[TextEncoder, ImageEncoder]:
    """The encoders of a model of sentence-transformers, for texts and for images.

    Args:
        name: a folder or a name on the hub.
        images: whether it has to encode images.

    Raises:
        JudgeError: it cannot be loaded, runs code of its own, or encodes no images.
    """
    field = f"demonstrations: encoder: {name}"
    if find_spec("sentence_transformers") is None:
        raise JudgeError(
            f"{field}: needs sentence-transformers, which is not installed; "
            "pip install 'mtrl-judge[demonstrations]'"
        )
    from sentence_transformers import SentenceTransformer

    folder = _model_folder(name, field)
    _refuse_foreign_modules(folder, field)
    try:
        model = SentenceTransformer(
            str(folder),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:
        raise JudgeError(
            f"{field}: cannot be loaded: {type(error).__name__}: {first_line(error)}"
        ) from error
    if images and not model.supports("image"):
        raise JudgeError(
            f"{field}: encodes no images; name a model that does, such as one of the CLIP family, "
            "or use by: [text]"
        )
    settings: dict[str, Any] = {"batch_size": 1, "show_progress_bar": False}

    def text_vector(text: str) -> NDArray[Any]:
        # As a mapping, as the library would open a bare text that is the address of an image.
        return np.asarray(model.encode([{"text": text}], **settings)[0])

    def image_vector(image: Image.Image) -> NDArray[Any]:
        return np.asarray(model.encode([image.convert("RGB")], **settings)[0])

    return text_vector, image_vector


def _model_folder(name: str, field: str) -> Path:
    from huggingface_hub import snapshot_download

    folder = expanded(name)
    if folder.is_dir():
        return folder
    try:
        found = snapshot_download(name, ignore_patterns=["*.bin", "*.pt", "*.onnx", "*.h5"])
    except Exception as error:
        raise JudgeError(
            f"{field}: no such folder, and not on the hub or in its cache "
            f"({type(error).__name__}); expected judge, tfidf, or a model of sentence-transformers"
        ) from error
    return Path(str(found))


def _refuse_foreign_modules(folder: Path, field: str) -> None:
    """The file names the classes that are imported and called to load the model."""
    file = folder / "modules.json"
    if not file.is_file():
        return
    try:
        types = [str(module["type"]) for module in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):
        raise JudgeError(f"{field}: {file} is not a list of modules") from None
    if foreign := [each for each in types if not each.startswith(_OWN_MODULES)]:
        raise JudgeError(
            f"{field}: loads {foreign[0]}, which is not part of sentence-transformers; expected a "
            "model without code of its own"
        )
