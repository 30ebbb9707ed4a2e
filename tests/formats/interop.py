"""Writes GGUF files with the package gguf, or tells what it reads from those in a folder."""

import json
import os
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFEndian, GGUFReader, GGUFWriter


def noise(rows, elements, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return np.random.randint(0, 255, (rows, elements // block * size), dtype=np.uint8)


def write(folder):
    def writer(name, **options):
        return GGUFWriter(os.path.join(folder, name), "llama", **options)

    def finish(w):
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()

    w = writer("one.gguf")
    w.add_tensor("a", np.arange(8, dtype=np.float32))
    finish(w)

    w = writer("blocks.gguf")
    w.add_tensor("x", noise(4, 256, T.Q4_K), raw_dtype=T.Q4_K)
    w.add_tensor("y", noise(3, 512, T.Q6_K), raw_dtype=T.Q6_K)
    finish(w)

    w = writer("aligned.gguf")
    w.add_custom_alignment(128)
    w.add_tensor("p", np.zeros(5, dtype=np.float32))
    w.add_tensor("q", np.zeros(3, dtype=np.float32))
    finish(w)

    w = writer("big-endian.gguf", endianess=GGUFEndian.BIG)
    w.add_name("big")
    w.add_head_count_kv([8, 4])
    w.add_token_list(["a", "b"])
    w.add_tensor("a", np.arange(8, dtype=np.float32))
    finish(w)

    w = writer("vocabulary.gguf")
    w.add_token_list([f"token {n}" for n in range(20000)])
    w.add_token_scores([0.5] * 20000)
    w.add_token_merges([f"a b{n}" for n in range(20000)])
    w.add_chat_template("{{ messages }}")
    finish(w)

    w = writer("shards.gguf", split_max_tensors=2)
    w.add_block_count(3)
    for n in range(5):
        w.add_tensor(f"blk.{n}.weight", np.zeros((4, 32), dtype=np.float32))
    finish(w)
    every_kind(folder)
    return {}


def every_kind(folder):
    """One file for each architecture, over all tensor types, file types and both byte orders."""
    kinds = list(gguf.GGML_QUANT_SIZES)
    # The package gives this one a size of its own.
    kinds.remove(T.Q8_1)
    labels = [label for label in gguf.LlamaFileType if label != gguf.LlamaFileType.GUESSED]
    for n, architecture in enumerate(gguf.MODEL_ARCH_NAMES.values()):
        order = GGUFEndian.BIG if n % 7 == 3 else GGUFEndian.LITTLE
        w = GGUFWriter(os.path.join(folder, f"every-{n:03}.gguf"), architecture, endianess=order)
        if n % 3:
            w.add_name(f"Größe {n}\n\x1b[31m" if n == 4 else f"Model {n}")
        if n % 5:
            w.add_file_type(labels[n % len(labels)])
        w.add_quantization_version(2)
        if n % 2:
            w.add_quantized_by("someone else")
        if n % 4:
            w.add_license("other" if n % 8 == 1 else "apache-2.0")
        if n % 8 == 1:
            w.add_license_name("llama3.1")
        if n % 3 == 1:
            w.add_base_model_count(2)
            w.add_base_model_name(0, "Base 8B")
            w.add_base_model_organization(0, "Org")
            if n % 2:
                w.add_base_model_repo_url(0, "https://huggingface.co/org/base-8B")
            w.add_base_model_name(1, "Other")
        w.add_context_length(4096 + n)
        w.add_block_count(4 + n)
        w.add_embedding_length(64 * (n + 1))
        w.add_head_count([8 + n] * (4 + n) if n % 6 == 2 else 8 + n)
        if n % 5 != 2:
            w.add_head_count_kv([2, 0] * (2 + n // 2) + [4 + n] * (n % 2) if n % 4 == 1 else 4 + n)
        if n % 4 == 2:
            w.add_expert_count(8 + n)
            w.add_expert_used_count(2)
        if n % 3 == 2:
            w.add_vocab_size(32000 + n)
        w.add_tokenizer_model(["llama", "gpt2", "bert", "t5", "rwkv", "none"][n % 6])
        w.add_tokenizer_pre("default")
        w.add_token_list([f"token {t}" for t in range(100 + n)])
        w.add_token_types([1] * (100 + n))
        w.add_token_scores([0.0] * (100 + n))
        if n % 3:
            w.add_chat_template("{{ messages }}")
        w.add_bos_token_id(1)
        for t in range(3):
            kind = kinds[(n + t * 11) % len(kinds)]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            data = np.zeros((2, 3, size * 2), dtype=np.uint8)
            w.add_tensor(f"blk.{t}.weight", data, raw_dtype=kind)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()


def figures(r):
    """What a table of models shows, by the keys as ggml documents them."""

    def key(name):
        field = r.fields.get(name)
        return None if field is None else field.contents()

    def one(name):
        value = key(f"{key('general.architecture')}.{name}")
        return max(value) if isinstance(value, list) else value

    def text(name):
        return key(name) or None

    parameters = sum(int(t.n_elements) for t in r.tensors)
    file_type = key("general.file_type")
    tokens = r.fields.get("tokenizer.ggml.tokens")
    heads = one("attention.head_count")
    base = key("general.base_model.0.repo_url")
    if base:
        base = base.removeprefix("https://huggingface.co/")
    else:
        parts = [key("general.base_model.0.organization"), key("general.base_model.0.name")]
        base = "/".join(p for p in parts if p) if parts[1] else None
    licence = key("general.license")
    if licence in (None, "other"):
        licence = key("general.license.name") or key("general.license.link") or licence
    return {
        "name": text("general.name"),
        "quantization": None
        if file_type is None
        else gguf.LlamaFileType(file_type & ~1024).name.removeprefix("MOSTLY_").removeprefix("ALL_"),
        "bits_per_weight": round(sum(int(t.n_bytes) for t in r.tensors) * 8 / parameters, 4) if parameters else None,
        "context_length": one("context_length"),
        "layers": one("block_count"),
        "embedding_length": one("embedding_length"),
        "heads": heads,
        "heads_kv": one("attention.head_count_kv") if one("attention.head_count_kv") is not None else heads,
        "experts": one("expert_count") or None,
        "experts_used": one("expert_used_count") or None,
        "vocabulary": one("vocab_size") or (len(tokens.data) if tokens else None),
        "chat_template": bool(key("tokenizer.chat_template")),
        "tokenizer": text("tokenizer.ggml.model"),
        "licence": licence,
        "base_model": base,
        "quantized_by": text("general.quantized_by"),
    }


def read(folder):
    told = {}
    for name in sorted(os.listdir(folder)):
        r = GGUFReader(os.path.join(folder, name))
        architecture = r.fields.get("general.architecture")
        told[name] = {
            "figures": figures(r),
            "big_endian": str(r.byte_order) == "S",
            "keys": [key for key in r.fields if not key.startswith("GGUF.")],
            "architecture": architecture.contents() if architecture else None,
            "data_start": int(r.data_offset) if r.tensors else None,
            "parameters": int(sum(t.n_elements for t in r.tensors)),
            "tensor_bytes": int(sum(t.n_bytes for t in r.tensors)),
            "tensors": [
                [t.name, [int(n) for n in t.shape], int(t.tensor_type), int(t.data_offset - r.data_offset), int(t.n_bytes)]
                for t in r.tensors
            ],
        }
    return told


json.dump({"write": write, "read": read}[sys.argv[1]](sys.argv[2]), sys.stdout)
