#!/usr/bin/env python3
"""Makes tests/golden/training.h: the losses and gradient norms of ten training steps of the small models in
models/, in float64 JAX: AdamW with weight decay and gradient clipping, the same batch in every step.

    pip install jax numpy
    python3 tests/golden/gen_training.py
"""

import pathlib

import numpy as np

import gen_models as g
import jax
import jax.numpy as jnp

LR, BETA1, BETA2, EPS, DECAY, CLIP, STEPS = 0.01, 0.9, 0.95, 1e-8, 0.1, 0.5, 10


def trajectory(seed, config):
    rng = np.random.default_rng(1000 + seed)
    gpt2 = config["model_type"] == "gpt2"
    shapes, logits_of = (g.gpt2_shapes, g.gpt2_logits) if gpt2 else (g.llama_shapes, g.llama_logits)
    stored = g.random_weights(rng, shapes(config), config["torch_dtype"])
    p = {k: jnp.asarray(v, jnp.float64) for k, v in stored.items()}
    ids = rng.integers(0, g.V, (g.B, g.T)).astype(np.int32)
    labels = rng.integers(0, g.V, (g.B, g.T)).astype(np.int32)
    labels[0, :3] = g.IGNORED
    labels[1, -1] = g.IGNORED
    step = jax.jit(jax.value_and_grad(lambda q: g.mean_loss(logits_of(config, q, ids), labels)))
    m = {k: 0 * v for k, v in p.items()}
    v = dict(m)
    rows = []
    for t in range(1, STEPS + 1):
        loss, grads = step(p)
        norm = float(jnp.sqrt(sum((x**2).sum() for x in grads.values())))
        rows.append((float(loss), norm))
        scale = 1 / max(1.0, (norm + 1e-6) / CLIP)
        for k in p:
            d = grads[k] * scale
            m[k] = BETA1 * m[k] + (1 - BETA1) * d
            v[k] = BETA2 * v[k] + (1 - BETA2) * d**2
            hat = m[k] / (1 - BETA1**t) / (jnp.sqrt(v[k] / (1 - BETA2**t)) + EPS)
            p[k] = p[k] - LR * (hat + DECAY * p[k])
    return rows


def main():
    lines = ["/* Made by gen_training.py: {loss, gradient norm} of each step. */",
             "/* clang-format off */", ""]
    for seed, (name, config) in enumerate(g.MODELS.items()):
        if name not in ("gpt2", "llama"):
            continue
        lines.append(f"static const double {name}_steps[{STEPS}][2] = {{")
        lines += [f"    {{{loss:.10g}, {norm:.10g}}}," for loss, norm in trajectory(seed, config)]
        lines += ["};", ""]
    pathlib.Path(__file__).with_name("training.h").write_text("\n".join(lines[:-1]) + "\n")


if __name__ == "__main__":
    main()
