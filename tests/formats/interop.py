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
    return {}


def read(folder):
    told = {}
    for name in sorted(os.listdir(folder)):
        r = GGUFReader(os.path.join(folder, name))
        architecture = r.fields.get("general.architecture")
        told[name] = {
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
