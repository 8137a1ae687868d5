#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/olmo2.json and tests/golden/phi3.json: tiny models under the names of Hugging Face, and their
logits in fp64 by plain loops, after "2 OLMo 2 Furious", arXiv 2501.00656, section 3, and "Phi-3 technical report",
arXiv 2404.14219, section 2, with the rotation and the window of their configurations.

Needs nothing beside Python; run by hand, never by a build or a test.
"""

import json
import math
import pathlib
import random
import struct

OLMO2 = {
    "model_type": "olmo2",
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 23,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
}
PHI3 = {
    "model_type": "phi3",
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 23,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.75,
    "sliding_window": 5,
    "tie_word_embeddings": True,
}


def fp32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def matrix(rng, rows, columns):
    return [[fp32(rng.gauss(0, 1) / math.sqrt(columns)) for _ in range(columns)] for _ in range(rows)]


def scales(rng, size):
    return [fp32(1 + 0.3 * rng.gauss(0, 1)) for _ in range(size)]


def make_weights(config, rng):
    width, inside = config["hidden_size"], config["intermediate_size"]
    head = width // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head
    weights = {"model.embed_tokens.weight": matrix(rng, config["vocab_size"], width)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        norms = ["post_attention_layernorm"]
        if config["model_type"] == "olmo2":
            for name, rows in ("q", width), ("k", kv), ("v", kv):
                weights[f"{layer}self_attn.{name}_proj.weight"] = matrix(rng, rows, width)
            weights[layer + "self_attn.q_norm.weight"] = scales(rng, width)
            weights[layer + "self_attn.k_norm.weight"] = scales(rng, kv)
            weights[layer + "mlp.gate_proj.weight"] = matrix(rng, inside, width)
            weights[layer + "mlp.up_proj.weight"] = matrix(rng, inside, width)
            norms.append("post_feedforward_layernorm")
        else:
            weights[layer + "self_attn.qkv_proj.weight"] = matrix(rng, width + 2 * kv, width)
            weights[layer + "mlp.gate_up_proj.weight"] = matrix(rng, 2 * inside, width)
            norms.append("input_layernorm")
        weights[layer + "self_attn.o_proj.weight"] = matrix(rng, width, width)
        weights[layer + "mlp.down_proj.weight"] = matrix(rng, width, inside)
        for name in norms:
            weights[f"{layer}{name}.weight"] = scales(rng, width)
    weights["model.norm.weight"] = scales(rng, width)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(rng, config["vocab_size"], width)
    return weights


def times(x, w):
    return [sum(a * b for a, b in zip(x, row)) for row in w]


def normed(x, w, epsilon):
    r = 1 / math.sqrt(sum(a * a for a in x) / len(x) + epsilon)
    return [a * r * b for a, b in zip(x, w)]


def plus(x, y):
    return [a + b for a, b in zip(x, y)]


def turned(x, head, rotary, position, base):
    y = list(x)
    for begin in range(0, len(x), head):
        for i in range(rotary // 2):
            angle = position * base ** (-2 * i / rotary)
            a, b = x[begin + i], x[begin + rotary // 2 + i]
            y[begin + i] = a * math.cos(angle) - b * math.sin(angle)
            y[begin + rotary // 2 + i] = b * math.cos(angle) + a * math.sin(angle)
    return y


def attention(config, weights, layer, rows):
    """What each row's heads see, before o_proj."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head = width // heads
    kv = config["num_key_value_heads"] * head
    rotary = int(config.get("partial_rotary_factor", 1) * head)
    keys, values, results = [], [], []
    for t, x in enumerate(rows):
        if config["model_type"] == "olmo2":
            q, k, v = (times(x, weights[f"{layer}self_attn.{name}_proj.weight"]) for name in "qkv")
            q = normed(q, weights[layer + "self_attn.q_norm.weight"], config["rms_norm_eps"])
            k = normed(k, weights[layer + "self_attn.k_norm.weight"], config["rms_norm_eps"])
        else:
            qkv = times(x, weights[layer + "self_attn.qkv_proj.weight"])
            q, k, v = qkv[:width], qkv[width : width + kv], qkv[width + kv :]
        q, k = (turned(each, head, rotary, t, config["rope_theta"]) for each in (q, k))
        keys.append(k)
        values.append(v)
        seen = range(max(0, t - config.get("sliding_window", t + 1) + 1), t + 1)
        result = []
        for h in range(heads):
            g = h * config["num_key_value_heads"] // heads * head
            scores = [sum(q[h * head + i] * keys[s][g + i] for i in range(head)) / math.sqrt(head) for s in seen]
            powers = [math.exp(score) for score in scores]
            for i in range(head):
                result.append(sum(p * values[s][g + i] for p, s in zip(powers, seen)) / sum(powers))
        results.append(result)
    return results


def feed_forward(config, weights, layer, x):
    if config["model_type"] == "olmo2":
        gate, up = (times(x, weights[f"{layer}mlp.{name}_proj.weight"]) for name in ("gate", "up"))
    else:
        both = times(x, weights[layer + "mlp.gate_up_proj.weight"])
        gate, up = both[: len(both) // 2], both[len(both) // 2 :]
    return times([a / (1 + math.exp(-a)) * b for a, b in zip(gate, up)], weights[layer + "mlp.down_proj.weight"])


def logits_of(config, weights, ids):
    def norm(x, name):
        return normed(x, weights[name + ".weight"], config["rms_norm_eps"])

    rows = [weights["model.embed_tokens.weight"][i] for i in ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        after = config["model_type"] == "olmo2"
        seen = attention(config, weights, layer, rows if after else [norm(x, layer + "input_layernorm") for x in rows])
        for t, x in enumerate(rows):
            added = times(seen[t], weights[layer + "self_attn.o_proj.weight"])
            x = plus(x, norm(added, layer + "post_attention_layernorm") if after else added)
            added = feed_forward(config, weights, layer, x if after else norm(x, layer + "post_attention_layernorm"))
            rows[t] = plus(x, norm(added, layer + "post_feedforward_layernorm") if after else added)
    head = weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return [times(norm(x, "model.norm"), head) for x in rows]


def main():
    for config in OLMO2, PHI3:
        rng = random.Random(config["model_type"])
        weights = make_weights(config, rng)
        ids = [rng.randrange(config["vocab_size"]) for _ in range(17)]
        golden = {"config": config, "weights": weights, "ids": ids, "logits": logits_of(config, weights, ids)}
        path = pathlib.Path(__file__).with_name(config["model_type"] + ".json")
        path.write_text(json.dumps(golden).replace('], "', '],\n"') + "\n")


if __name__ == "__main__":
    main()
