"""Writing GGUF files, the format of llama.cpp and Ollama."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from lissom.errors import InputError
from lissom.gguf.architecture import Architecture, Shapes, architecture_of, shapes_of, target_shapes
from lissom.gguf.config import Pooling
from lissom.gguf.encode import encode
from lissom.gguf.file_types import FileType, Importance, type_of
from lissom.gguf.grid import is_on_grid
from lissom.gguf.settings import write_settings
from lissom.gguf.tensors import rope_factors, tensors_of
from lissom.gguf.vocabulary import Vocabulary, vocabulary_of, write_vocabulary
from lissom.models.compressed import CompressedModel
from lissom.models.dense import dense
from lissom.storage import replacing
from lissom.tasks.language_modeling import LanguageModeling


@dataclass(frozen=True)
class GgufModel:
    """A language model or an encoder in llama.cpp's terms, from which files of any type are written."""

    model: CompressedModel
    architecture: Architecture
    shapes: Shapes
    """Sizes of the blocks in the file."""
    vocabulary: Vocabulary
    tensors: Mapping[str, NDArray[np.float32]]
    pooling: Pooling

    @cached_property
    def parameters(self) -> int:
        """Return the number of parameters in the file."""
        return sum(tensor.size for tensor in self.tensors.values())


def described(model: CompressedModel) -> tuple[Architecture, Vocabulary]:
    """Return how llama.cpp holds a model's family and its tokenizer, without a look at its weights.

    Raises:
        InputError: llama.cpp has no architecture, no tokenizer or no positions for it, or Ollama has no use for it.
    """
    network, task = model.network, model.manifest.task
    architecture = architecture_of(network)
    if not (architecture.encoder or isinstance(task, LanguageModeling)):
        raise InputError(
            f"export.formats gguf: Ollama runs language models, and encoders for embeddings; this {architecture.name} "
            f"predicts {task.describe()}; take export.formats: [onnx]"
        )
    if not architecture.encoder:
        rope_factors(network)
    vocabulary = vocabulary_of(model.tokenizer, network.config)
    # A language model writes on from a prompt: what ends texts must not be read after it.
    return architecture, vocabulary if architecture.encoder else replace(vocabulary, ends=False)


def gguf_model(model: CompressedModel, pooling: Pooling = "mean") -> GgufModel:
    """Return a language model, or the encoder of another model, in llama.cpp's terms.

    Factors of matrices are multiplied out. Blocks of different widths stay as they are where llama.cpp has an
    architecture for it; else they are padded with zeros to the widest one, which changes no answer.

    Raises:
        InputError: as of `described`, or llama.cpp has no name for a tensor.
    """
    architecture, vocabulary = described(model)
    network = dense(model.network)
    if network is not model.network:
        model = replace(model, network=network)
    shapes = target_shapes(shapes_of(network), architecture, network.config.hidden_size)
    if not shapes.is_even and architecture.uneven is not None:
        architecture = replace(architecture, name=architecture.uneven)
    return GgufModel(
        model,
        architecture,
        shapes,
        vocabulary,
        tensors_of(network, architecture, shapes),
        pooling,
    )


def write_gguf(
    source: GgufModel, path: Path, file_type: FileType, importance: Importance | None = None,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, gguf.GGMLQuantizationType]:  # fmt: skip
    """Write a file of a type, atomically, and return the type of every tensor.

    Args:
        source: the model.
        path: path of the file.
        file_type: the type, or mixture of types, of its tensors.
        importance: weights of every tensor's columns, for types that quantise.
        metadata: further entries, by key: where the model comes from, its licence.
    """
    task = source.model.manifest.task
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, source.architecture.name)
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_file_type(file_type.number)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_size_label(gguf.size_label(source.parameters, 0, 0, 0))
        writer.add_base_model_count(1)
        for key, value in (metadata or {}).items():
            writer.add_string(key, value)
        network = source.model.network
        write_settings(writer, network, source.architecture, source.shapes, task.max_length, source.pooling)
        template = task.chat_template if isinstance(task, LanguageModeling) else None
        write_vocabulary(writer, source.vocabulary, network.config, template)
        plain = types_of(source, file_type, has_importance=False)
        types = plain if importance is None else types_of(source, file_type, has_importance=True)
        for name, tensor in source.tensors.items():
            weights = None if importance is None else importance.get(name)
            if weights is not None and is_on_grid(tensor, plain[name]):  # trained for this format: no error to move
                types[name], weights = plain[name], None
            writer.add_tensor(name, encode(tensor, types[name], weights), raw_dtype=types[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return types


def types_of(source: GgufModel, file_type: FileType, *, has_importance: bool) -> dict[str, gguf.GGMLQuantizationType]:
    """Return the type of every tensor in a file of a type."""
    return {
        name: type_of(
            name, tensor.shape, file_type, len(source.shapes.neurons), is_tied="output.weight" not in source.tensors,
            gqa=source.shapes.group, has_importance=has_importance,
        )
        for name, tensor in source.tensors.items()
    }  # fmt: skip
