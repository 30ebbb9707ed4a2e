"""Writes safetensors files with the package safetensors, or tells what it reads from those in a folder.

`write` makes random good files of every type that the package can write, one by one and as sharded sets. `read` tells what
the package reads from the files of a folder. `pack` quantizes random weights as each method lays them out, in folders like
those of published models, and tells how many weights there were before.
"""

import json
import os
import random
import sys

import numpy as np
import safetensors
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import TensorSpec, safe_open

# Each type that the package can write, with the bytes of one number; of the last, two numbers are in a byte.
TYPES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "float8_e8m0fnu": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float4_e2m1fn_x2": 1,
}  # fmt: skip

random.seed(7)
np.random.seed(7)


class Tensor:
    def __init__(self, kind, shape, data=None):
        self.kind, self.shape = kind, list(shape)
        size = int(np.prod(self.shape, dtype=np.int64)) * TYPES[kind]
        self.data = np.zeros(size, dtype=np.uint8) if data is None else data
        assert self.data.nbytes == size, (kind, shape, self.data.nbytes)


def save(path, tensors, metadata=None):
    specs = {
        name: TensorSpec(dtype=t.kind, shape=t.shape, data_ptr=t.data.ctypes.data, data_len=t.data.nbytes)
        for name, t in tensors.items()
    }
    safetensors.serialize_file(specs, path, metadata)


def save_model(folder, tensors, shard_bytes, metadata=None):
    """As huggingface_hub cuts and names it, with an index where there are several files."""
    os.makedirs(folder)
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda t: t.data.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    for name, keys in split.filename_to_tensors.items():
        save(os.path.join(folder, name), {key: tensors[key] for key in keys}, metadata)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as file:
            json.dump(index, file, indent=2)
    return len(split.filename_to_tensors)


def some(kinds, count):
    tensors = {}
    for n in range(count):
        kind = random.choice(kinds)
        shape = [random.choice([0, 1, 1, 2, 3, 7, 16]) for _ in range(random.randrange(5))]
        if kind == "float4_e2m1fn_x2":
            shape = [*shape, 2]
        name = random.choice(["model.layers.{}.w", "größe.{}", 'quote"{}', "tab\t{}", "a.b.c.{}.weight"]).format(n)
        tensors[name] = Tensor(kind, shape)
    return tensors


def write(folder):
    for kind in TYPES:
        save(os.path.join(folder, f"type-{kind}.safetensors"), {"t": Tensor(kind, [4, 6]), "u": Tensor(kind, [])
             if kind != "float4_e2m1fn_x2" else Tensor(kind, [2])})
    for n in range(150):
        metadata = random.choice([None, {}, {"format": "pt"}, {"ä": 'ö"\\', "n": "1\n2"}])
        tensors = some(list(TYPES), random.randrange(12))
        # With neither, the package writes what it cannot read.
        save(os.path.join(folder, f"random-{n:03}.safetensors"), tensors, metadata if tensors else metadata or None)
    floats = ["float16", "bfloat16", "float32"]
    for n in range(20):
        save_model(os.path.join(folder, f"set-{n:02}"), some(floats, 40), random.choice([64, 500, 4000, 1 << 30]))
    return {}


def read_file(path):
    with open(path, "rb") as file:
        content = file.read()
    sizes = {name: len(tensor["data"]) for name, tensor in safetensors.deserialize(content)}
    with safe_open(path, "np") as opened:
        tensors = []
        for name in opened.offset_keys():
            part = opened.get_slice(name)
            tensors.append([name, part.get_dtype(), part.get_shape(), sizes[name]])
        return {
            "metadata": opened.metadata() or {},
            "tensors": tensors,
            "elements": sum(int(np.prod(shape, dtype=np.int64)) for _, _, shape, _ in tensors),
            "bytes": sum(sizes.values()),
        }


def read(folder):
    told = {}
    for root, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".safetensors"):
                path = os.path.join(root, name)
                told[os.path.relpath(path, folder)] = read_file(path)
    return told


def try_each(folder):
    """What the package reads of each file: its metadata and the shapes of its tensors, or None."""
    told = {}
    for name in os.listdir(folder):
        try:
            with safe_open(os.path.join(folder, name), "np") as opened:
                shapes = sorted([key, opened.get_slice(key).get_shape()] for key in opened.keys())
                told[name] = [shapes, opened.metadata() or {}]
        except safetensors.SafetensorError:
            told[name] = None
    return told


def ints(values, bits):
    """Numbers of so many bits along the last axis of uint32, without gaps; the lowest bits first."""
    low = ((values[..., None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32)) & 1).astype(np.uint8)
    flat = low.reshape(*values.shape[:-1], -1)
    return np.ascontiguousarray(np.packbits(flat, axis=-1, bitorder="little")).view(np.uint32)


def raw(kind, array):
    array = np.ascontiguousarray(array)
    return Tensor(kind, array.shape, array.reshape(-1).view(np.uint8) if array.size else None)


def floats(*shape, kind="float16"):
    return Tensor(kind, shape)


def random_ints(bits, *shape):
    return np.random.randint(0, 1 << bits, shape)


def gptq(bits):
    def layer(name, inputs, outputs):
        groups = inputs // 32
        packed = np.ascontiguousarray(ints(random_ints(bits, outputs, inputs), bits).T)
        return {
            f"{name}.qweight": raw("int32", packed),
            f"{name}.qzeros": raw("int32", ints(random_ints(bits, groups, outputs), bits)),
            f"{name}.scales": floats(groups, outputs),
            f"{name}.g_idx": raw("int32", np.arange(inputs, dtype=np.int32) // 32),
        }

    return layer


def awq(name, inputs, outputs):
    groups = inputs // 32
    return {
        f"{name}.qweight": raw("int32", ints(random_ints(4, inputs, outputs), 4)),
        f"{name}.qzeros": raw("int32", ints(random_ints(4, groups, outputs), 4)),
        f"{name}.scales": floats(groups, outputs),
    }


def two_in_a_byte(values):
    return (values[..., 0::2] | (values[..., 1::2] << 4)).astype(np.uint8)


def bitsandbytes_4bit(kind):
    def layer(name, inputs, outputs):
        packed = two_in_a_byte(random_ints(4, inputs * outputs)).reshape(-1, 1)
        blocks = inputs * outputs // 64
        state = f'{{"quant_type": "{kind}", "blocksize": 64, "dtype": "bfloat16", "shape": [{outputs}, {inputs}]}}'
        return {
            f"{name}.weight": raw("uint8", packed),
            f"{name}.weight.absmax": Tensor("uint8", [blocks]),
            f"{name}.weight.nested_absmax": floats(max(1, blocks // 256), kind="float32"),
            f"{name}.weight.nested_quant_map": floats(256, kind="float32"),
            f"{name}.weight.quant_map": floats(16, kind="float32"),
            f"{name}.weight.quant_state.bitsandbytes__{kind}": raw("uint8", np.frombuffer(state.encode(), np.uint8)),
        }

    return layer


def bitsandbytes_8bit(name, inputs, outputs):
    return {
        f"{name}.weight": raw("int8", random_ints(7, outputs, inputs).astype(np.int8)),
        f"{name}.SCB": floats(outputs, kind="float32"),
        f"{name}.weight_format": Tensor("uint8", []),
    }


def mxfp4(name, inputs, outputs):
    packed = two_in_a_byte(random_ints(4, 2, outputs, inputs // 32, 32))
    return {f"{name}_blocks": raw("uint8", packed), f"{name}_scales": Tensor("uint8", [2, outputs, inputs // 32])}


def compressed(bits):
    def layer(name, inputs, outputs):
        return {
            f"{name}.weight_packed": raw("int32", ints(random_ints(bits, outputs, inputs), bits)),
            f"{name}.weight_scale": floats(outputs, inputs // 32, kind="bfloat16"),
            f"{name}.weight_shape": raw("int64", np.array([outputs, inputs])),
        }

    return layer


def fp4(packed_name):
    def layer(name, inputs, outputs):
        return {
            f"{name}.{packed_name}": raw("uint8", two_in_a_byte(random_ints(4, outputs, inputs))),
            f"{name}.weight_scale": Tensor("float8_e4m3fn", [outputs, inputs // 16]),
            f"{name}.weight_scale_2": floats(kind="float32"),
            f"{name}.input_scale": floats(kind="float32"),
        }

    return layer


def int4_in_rows(name, inputs, outputs):
    packed = np.ascontiguousarray(two_in_a_byte(random_ints(4, inputs, outputs)).T)
    return {
        f"{name}.weight": raw("uint8", packed),
        f"{name}.weight_scale": floats(outputs, inputs // 32),
        f"{name}.pre_quant_scale": floats(inputs),
    }


def fp8(scale):
    def layer(name, inputs, outputs):
        return {
            f"{name}.weight": Tensor("float8_e4m3fn", [outputs, inputs]),
            f"{name}.{scale}": floats(outputs // 32, inputs // 32, kind="float32"),
        }

    return layer


def mlx(bits):
    def layer(name, inputs, outputs):
        return {
            f"{name}.weight": raw("uint32", ints(random_ints(bits, outputs, inputs), bits)),
            f"{name}.scales": floats(outputs, inputs // 32),
            f"{name}.biases": floats(outputs, inputs // 32),
        }

    return layer


def pack(folder):
    def groups(bits, kind, layout):
        weights = {"num_bits": bits, "type": kind, "group_size": 32}
        group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
        return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}

    bnb = {"quant_method": "bitsandbytes"}
    layouts = {
        **{f"gptq-{n}": (gptq(n), {"quant_method": "gptq", "bits": n}, f"GPTQ-INT{n}", 1) for n in (2, 3, 4, 8)},
        "awq": (awq, {"quant_method": "awq", "bits": 4}, "AWQ-INT4", 1),
        "nf4": (bitsandbytes_4bit("nf4"), {**bnb, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "NF4", 1),
        "fp4": (bitsandbytes_4bit("fp4"), {**bnb, "load_in_4bit": True}, "FP4", 1),
        "int8": (bitsandbytes_8bit, {**bnb, "load_in_8bit": True}, "INT8", 1),
        "mxfp4": (mxfp4, {"quant_method": "mxfp4"}, "MXFP4", 2),
        "w4a16": (compressed(4), groups(4, "int", "pack-quantized"), "W4A16", 1),
        "w8a16": (compressed(8), groups(8, "int", "pack-quantized"), "W8A16", 1),
        "nvfp4-packed": (fp4("weight_packed"), groups(4, "float", "nvfp4-pack-quantized"), "NVFP4", 1),
        "fp8-packed": (fp8("weight_scale"), groups(8, "float", "float-quantized"), "FP8", 1),
        "nvfp4": (fp4("weight"), {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4", 1),
        "w4a16-awq": (int4_in_rows, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "W4A16_AWQ", 1),
        "fp8": (fp8("weight_scale_inv"), {"quant_method": "fp8"}, "FP8", 1),
        **{f"mlx-{n}": (mlx(n), {"mlx": {"group_size": 32, "bits": n}}, f"MLX-INT{n}", 1) for n in (3, 4, 6, 8)},
    }
    told = {}
    for name, (layer, quantization, label, times) in layouts.items():
        for shard_bytes in (1 << 30, 20_000):
            tensors = {"model.embed_tokens.weight": floats(100, 64), "model.norm.weight": floats(64)}
            parameters = 101 * 64
            for n, (inputs, outputs) in enumerate([(64, 96), (128, 64), (96, 128)]):
                tensors |= layer(f"model.layers.{n}.proj", inputs, outputs)
                tensors[f"model.layers.{n}.proj.bias"] = floats(outputs)
                parameters += inputs * outputs * times + outputs
            config = {"model_type": "llama"}
            config |= {"quantization": quantization["mlx"]} if "mlx" in quantization else {"quantization_config": quantization}
            model = f"{name}-{'cut' if shard_bytes < 1 << 20 else 'whole'}"
            # MLX says so in its files.
            files = save_model(os.path.join(folder, model), tensors, shard_bytes, {"format": "mlx" if "mlx" in name else "pt"})
            with open(os.path.join(folder, model, "config.json"), "w") as file:
                json.dump(config, file)
            size = sum(t.data.nbytes for t in tensors.values())
            told[model] = {"parameters": parameters, "label": label, "bytes": size, "files": files}
    return told


json.dump({"write": write, "read": read, "pack": pack, "try": try_each}[sys.argv[1]](sys.argv[2]), sys.stdout)
