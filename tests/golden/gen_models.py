#!/usr/bin/env python3
"""Writes models/: tiny models with random weights, and what float64 arithmetic makes of them.

The models are written here in JAX from the papers and the conventions of Hugging Face's files
(names, layouts, config keys); nothing is shared with the library under test. Each folder gets
config.json and model.safetensors as transformers would save them, and golden.safetensors with ids,
labels, logits, loss, and grad.NAME for every tensor, in the file's own layout.

Usage: python3 gen_models.py   (needs jax; the committed files came from jax 0.10)
"""

import json
import math
import pathlib
import struct

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

V, B, T = 61, 2, 12
IGNORED = -100
TYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "bool": "BOOL"}


def save_safetensors(path, tensors):
    header, parts, at = {}, [], 0
    for name, a in tensors.items():
        data = np.ascontiguousarray(a).tobytes()
        header[name] = {
            "dtype": TYPES[str(a.dtype)],
            "shape": list(a.shape),
            "data_offsets": [at, at + len(data)],
        }
        parts.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


# ---- pieces


def layer_norm(x, w, b, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + eps) * w + b


def rms_norm(x, w, eps):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + eps) * w


def attend(q, k, v):
    """q, k, v [B,H,T,D]; causal."""
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.shape[-1])
    t = jnp.arange(q.shape[2])
    scores = jnp.where(t[:, None] >= t[None, :], scores, -jnp.inf)
    return jnp.einsum("bhts,bhsd->bhtd", jax.nn.softmax(scores, axis=-1), v)


def split_heads(x, heads):
    b, t, c = x.shape
    return x.reshape(b, t, heads, c // heads).transpose(0, 2, 1, 3)


def merge_heads(x):
    b, h, t, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, t, h * d)


def gelu_new(x):
    return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    return 0.5 * x * (1 + jax.scipy.special.erf(x / math.sqrt(2)))


def mean_loss(logits, labels):
    logp = jax.nn.log_softmax(logits, axis=-1)
    counted = labels != IGNORED
    picked = jnp.take_along_axis(logp, jnp.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    return -(picked * counted).sum() / counted.sum()


# ---- GPT-2 (Conv1D weights are [in, out])


def gpt2_shapes(c):
    n, inner = c["n_embd"], c["n_inner"] or 4 * c["n_embd"]
    shapes = {"wte.weight": (c["vocab_size"], n), "wpe.weight": (c["n_positions"], n)}
    for i in range(c["n_layer"]):
        shapes |= {
            f"h.{i}.ln_1.weight": (n,),
            f"h.{i}.ln_1.bias": (n,),
            f"h.{i}.attn.c_attn.weight": (n, 3 * n),
            f"h.{i}.attn.c_attn.bias": (3 * n,),
            f"h.{i}.attn.c_proj.weight": (n, n),
            f"h.{i}.attn.c_proj.bias": (n,),
            f"h.{i}.ln_2.weight": (n,),
            f"h.{i}.ln_2.bias": (n,),
            f"h.{i}.mlp.c_fc.weight": (n, inner),
            f"h.{i}.mlp.c_fc.bias": (inner,),
            f"h.{i}.mlp.c_proj.weight": (inner, n),
            f"h.{i}.mlp.c_proj.bias": (n,),
        }
    shapes |= {"ln_f.weight": (n,), "ln_f.bias": (n,)}
    shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], n)
    return shapes


def gpt2_logits(c, p, ids):
    eps = c["layer_norm_epsilon"]
    act = {"gelu_new": gelu_new, "gelu": gelu_exact}[c["activation_function"]]
    x = p["transformer.wte.weight"][ids] + p["transformer.wpe.weight"][: ids.shape[1]]
    for i in range(c["n_layer"]):
        w = {k.split(f".h.{i}.", 1)[1]: v for k, v in p.items() if f".h.{i}." in k}
        h = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"], eps)
        h = h @ w["attn.c_attn.weight"] + w["attn.c_attn.bias"]
        q, k, v = (split_heads(part, c["n_head"]) for part in jnp.split(h, 3, axis=-1))
        h = merge_heads(attend(q, k, v))
        x = x + h @ w["attn.c_proj.weight"] + w["attn.c_proj.bias"]
        h = layer_norm(x, w["ln_2.weight"], w["ln_2.bias"], eps)
        h = act(h @ w["mlp.c_fc.weight"] + w["mlp.c_fc.bias"])
        x = x + h @ w["mlp.c_proj.weight"] + w["mlp.c_proj.bias"]
    x = layer_norm(x, p["transformer.ln_f.weight"], p["transformer.ln_f.bias"], eps)
    head = "transformer.wte.weight" if c["tie_word_embeddings"] else "lm_head.weight"
    return x @ p[head].T


# ---- LLaMA (weights are [out, in])


def llama_shapes(c):
    n, inner = c["hidden_size"], c["intermediate_size"]
    d = c.get("head_dim") or n // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    shapes = {"model.embed_tokens.weight": (c["vocab_size"], n)}
    for i in range(c["num_hidden_layers"]):
        layer = {
            "input_layernorm.weight": (n,),
            "self_attn.q_proj.weight": (q, n),
            "self_attn.k_proj.weight": (kv, n),
            "self_attn.v_proj.weight": (kv, n),
            "self_attn.o_proj.weight": (n, q),
            "post_attention_layernorm.weight": (n,),
            "mlp.gate_proj.weight": (inner, n),
            "mlp.up_proj.weight": (inner, n),
            "mlp.down_proj.weight": (n, inner),
        }
        biased = ["self_attn"] * c["attention_bias"] + ["mlp"] * c["mlp_bias"]
        for name, shape in list(layer.items()):
            if name.split(".")[0] in biased:
                layer[name.replace(".weight", ".bias")] = shape[:1]
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (n,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], n)
    return shapes


def rotary_frequencies(c, d):
    f = 1.0 / c["rope_theta"] ** (np.arange(0, d, 2) / d)
    s = c["rope_scaling"]
    if not s:
        return f
    assert s["rope_type"] == "llama3"
    original = s["original_max_position_embeddings"]
    wavelength = 2 * np.pi / f
    smooth = (original / wavelength - s["low_freq_factor"]) / (
        s["high_freq_factor"] - s["low_freq_factor"]
    )
    blended = (1 - smooth) * f / s["factor"] + smooth * f
    scaled = np.where(wavelength > original / s["low_freq_factor"], f / s["factor"], blended)
    scaled = np.where(wavelength < original / s["high_freq_factor"], f, scaled)
    # all three kinds must occur, or the test would not see them
    assert (scaled == f).any() and (scaled == f / s["factor"]).any()
    assert ((scaled != f) & (scaled != f / s["factor"])).any()
    return scaled


def rotate(x, f):
    """x [B,H,T,D]: dimension i turns with dimension i + D/2."""
    angle = jnp.arange(x.shape[2])[:, None] * f[None, :]
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def llama_logits(c, p, ids):
    eps, heads, groups = c["rms_norm_eps"], c["num_attention_heads"], c["num_key_value_heads"]
    f = rotary_frequencies(c, c.get("head_dim") or c["hidden_size"] // heads)

    def linear(x, layer, name):
        base = f"model.layers.{layer}.{name}"
        return x @ p[base + ".weight"].T + p.get(base + ".bias", 0)

    x = p["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        h = rms_norm(x, p[f"model.layers.{i}.input_layernorm.weight"], eps)
        q = rotate(split_heads(linear(h, i, "self_attn.q_proj"), heads), f)
        k = rotate(split_heads(linear(h, i, "self_attn.k_proj"), groups), f)
        v = split_heads(linear(h, i, "self_attn.v_proj"), groups)
        k, v = (jnp.repeat(z, heads // groups, axis=1) for z in (k, v))
        x = x + linear(merge_heads(attend(q, k, v)), i, "self_attn.o_proj")
        h = rms_norm(x, p[f"model.layers.{i}.post_attention_layernorm.weight"], eps)
        h = jax.nn.silu(linear(h, i, "mlp.gate_proj")) * linear(h, i, "mlp.up_proj")
        x = x + linear(h, i, "mlp.down_proj")
    x = rms_norm(x, p["model.norm.weight"], eps)
    return x @ p["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"].T


# ---- the models

GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "bos_token_id": 60,
    "eos_token_id": 60,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "n_ctx": T,
    "n_embd": 32,
    "n_head": 4,
    "n_inner": None,
    "n_layer": 2,
    "n_positions": T,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": V,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": T,
    "mlp_bias": False,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": V,
}
SMALL = {"n_embd": 16, "n_head": 2, "n_layer": 1, "n_inner": 24}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 100,
}
MODELS = {
    "gpt2": GPT2,
    # exact GELU, a head of its own; saved in half precision by the base class, masks included
    "gpt2-base-f16": GPT2
    | SMALL
    | {"activation_function": "gelu", "tie_word_embeddings": False, "torch_dtype": "float16"},
    "llama": LLAMA,
    # biases, scaled rotary frequencies, tied, heads wider than hidden_size / heads
    "llama-variant": LLAMA
    | {
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_size": 24,
        "head_dim": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_scaling": LLAMA3,
        "rope_theta": 500.0,
    },
}


def random_weights(rng, shapes, dtype):
    p = {}
    for name, shape in shapes.items():
        if len(shape) == 2:
            value = rng.normal(size=shape) * 0.25
        elif name.endswith(".weight"):
            value = 1 + rng.normal(size=shape) * 0.1
        else:
            value = rng.normal(size=shape) * 0.1
        p[name] = value.astype(dtype)
    return p


def main():
    here = pathlib.Path(__file__).resolve().parent / "models"
    for seed, (name, config) in enumerate(MODELS.items()):
        rng = np.random.default_rng(1000 + seed)
        gpt2 = config["model_type"] == "gpt2"
        shapes, logits_of = (gpt2_shapes, gpt2_logits) if gpt2 else (llama_shapes, llama_logits)
        stored = random_weights(rng, shapes(config), config["torch_dtype"])
        p = {k: jnp.asarray(v, jnp.float64) for k, v in stored.items()}
        ids = rng.integers(0, V, (B, T)).astype(np.int32)
        labels = rng.integers(0, V, (B, T)).astype(np.int32)
        labels[0, :3] = IGNORED
        labels[1, -1] = IGNORED

        loss, grads = jax.value_and_grad(lambda q: mean_loss(logits_of(config, q, ids), labels))(p)
        golden = {
            "ids": ids,
            "labels": labels,
            "logits": np.asarray(logits_of(config, p, ids), np.float32),
            "loss": np.asarray([loss], np.float32),
        }
        golden |= {f"grad.{k}": np.asarray(g, np.float32) for k, g in grads.items()}

        folder = here / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "gpt2-base-f16":
            stored = {k.removeprefix("transformer."): v for k, v in stored.items()}
            stored["h.0.attn.bias"] = np.tril(np.ones((1, 1, T, T), bool))
            stored["h.0.attn.masked_bias"] = np.asarray(-1e4, np.float16)
        save_safetensors(folder / "model.safetensors", stored)
        save_safetensors(folder / "golden.safetensors", golden)
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        print(f"{name}: {sum(v.size for v in p.values())} parameters, loss {float(loss):.6f}")


if __name__ == "__main__":
    main()
