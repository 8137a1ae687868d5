#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/<architecture>.json: tiny models under the names of Hugging Face, and their logits in fp64 by
plain loops, after "2 OLMo 2 Furious", arXiv 2501.00656, section 3, "Phi-3 technical report", arXiv 2404.14219, section 2,
"Gemma 2", arXiv 2408.00118, section 2, "Gemma 3 technical report", arXiv 2503.19786, section 2, "GPT-NeoX-20B", arXiv
2204.06745, section 2, and "Stable LM 2 1.6B technical report", arXiv 2402.17834, section 2, with the rotation and the window of their configurations.

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
GEMMA2 = {
    "model_type": "gemma2",
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 23,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "sliding_window": 5,
    "query_pre_attn_scalar": 8,
    "attn_logit_softcapping": 1.5,
    "final_logit_softcapping": 2.0,
    "tie_word_embeddings": True,
}
GEMMA3 = {
    **GEMMA2,
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "hidden_size": 8,
    "intermediate_size": 8,
    "head_dim": 4,
    "query_pre_attn_scalar": 4,
    "rope_scaling": {"rope_type": "linear", "factor": 3.0},
    "rope_local_base_freq": 10000.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
NEOX = {
    "model_type": "gpt_neox",
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 23,
    "max_position_embeddings": 32,
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 500.0,
    "rotary_pct": 0.5,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
STABLELM = {
    "model_type": "stablelm",
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 23,
    "max_position_embeddings": 32,
    "layer_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.5,
    "use_qkv_bias": True,
    "tie_word_embeddings": False,
}


def fp32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def matrix(rng, rows, columns):
    return [[fp32(rng.gauss(0, 1) / math.sqrt(columns)) for _ in range(columns)] for _ in range(rows)]


def scales(config, rng, size):
    usual = 0 if is_gemma(config) else 1  # what a norm multiplies with is 1 more, there
    return [fp32(usual + 0.3 * rng.gauss(0, 1)) for _ in range(size)]


def is_gemma(config):
    return config["model_type"].startswith("gemma")


def sizes(config):
    """Of the stream, of a head, and of the keys of all heads."""
    head = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return config["hidden_size"], head, config.get("num_key_value_heads", config["num_attention_heads"]) * head


def add_norm(config, weights, name, rng):
    weights[name + ".weight"] = scales(config, rng, config["hidden_size"])
    if "layer_norm_eps" in config:
        weights[name + ".bias"] = [fp32(0.3 * rng.gauss(0, 1)) for _ in range(config["hidden_size"])]


def make_weights(config, rng):
    if config["model_type"] == "gpt_neox":
        return make_neox_weights(config, rng)
    inside = config["intermediate_size"]
    width, head, kv = sizes(config)
    q = config["num_attention_heads"] * head
    weights = {"model.embed_tokens.weight": matrix(rng, config["vocab_size"], width)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        norms = ["post_attention_layernorm"]
        if config["model_type"] == "phi3":
            weights[layer + "self_attn.qkv_proj.weight"] = matrix(rng, q + 2 * kv, width)
            weights[layer + "mlp.gate_up_proj.weight"] = matrix(rng, 2 * inside, width)
            norms.append("input_layernorm")
        else:
            for name, rows in ("q", q), ("k", kv), ("v", kv):
                weights[f"{layer}self_attn.{name}_proj.weight"] = matrix(rng, rows, width)
                if config.get("use_qkv_bias"):
                    weights[f"{layer}self_attn.{name}_proj.bias"] = [fp32(0.3 * rng.gauss(0, 1)) for _ in range(rows)]
            if config["model_type"] in ("olmo2", "gemma3_text"):
                whole = config["model_type"] == "olmo2"
                weights[layer + "self_attn.q_norm.weight"] = scales(config, rng, q if whole else head)
                weights[layer + "self_attn.k_norm.weight"] = scales(config, rng, kv if whole else head)
            weights[layer + "mlp.gate_proj.weight"] = matrix(rng, inside, width)
            weights[layer + "mlp.up_proj.weight"] = matrix(rng, inside, width)
            norms.append("input_layernorm" if config["model_type"] == "stablelm" else "post_feedforward_layernorm")
            norms += ["input_layernorm", "pre_feedforward_layernorm"] if is_gemma(config) else []
        weights[layer + "self_attn.o_proj.weight"] = matrix(rng, width, q)
        weights[layer + "mlp.down_proj.weight"] = matrix(rng, width, inside)
        for name in norms:
            add_norm(config, weights, layer + name, rng)
    add_norm(config, weights, "model.norm", rng)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(rng, config["vocab_size"], width)
    return weights


def make_neox_weights(config, rng):
    width, inside = config["hidden_size"], config["intermediate_size"]
    weights = {"gpt_neox.embed_in.weight": matrix(rng, config["vocab_size"], width)}
    for i in range(config["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{i}."
        for name, rows, columns in (
            ("attention.query_key_value", 3 * width, width),
            ("attention.dense", width, width),
            ("mlp.dense_h_to_4h", inside, width),
            ("mlp.dense_4h_to_h", width, inside),
        ):
            weights[f"{layer}{name}.weight"] = matrix(rng, rows, columns)
            weights[f"{layer}{name}.bias"] = [fp32(0.3 * rng.gauss(0, 1)) for _ in range(rows)]
        for name in "input_layernorm", "post_attention_layernorm":
            add_norm(config, weights, layer + name, rng)
    add_norm(config, weights, "gpt_neox.final_layer_norm", rng)
    weights["embed_out.weight"] = matrix(rng, config["vocab_size"], width)
    return weights


def times(x, w):
    return [sum(a * b for a, b in zip(x, row)) for row in w]


def linear(x, weights, name):
    y = times(x, weights[name + ".weight"])
    return plus(y, weights[name + ".bias"]) if name + ".bias" in weights else y


def normed(x, w, epsilon):
    r = 1 / math.sqrt(sum(a * a for a in x) / len(x) + epsilon)
    return [a * r * b for a, b in zip(x, w)]


def layer_normed(x, weights, name, epsilon):
    mean = sum(x) / len(x)
    centered = normed([a - mean for a in x], weights[name + ".weight"], epsilon)
    return plus(centered, weights[name + ".bias"])


def normed_heads(config, x, head, w):
    """By one norm of all heads, or by one of each."""
    w = [1 + a for a in w] if is_gemma(config) else w
    size = len(w)
    return [a for i in range(0, len(x), size) for a in normed(x[i : i + size], w, config["rms_norm_eps"])]


def plus(x, y):
    return [a + b for a, b in zip(x, y)]


def capped(x, cap):
    return x if cap is None else cap * math.tanh(x / cap)


def turned(x, head, rotary, position, base):
    y = list(x)
    for begin in range(0, len(x), head):
        for i in range(rotary // 2):
            angle = position * base ** (-2 * i / rotary)
            a, b = x[begin + i], x[begin + rotary // 2 + i]
            y[begin + i] = a * math.cos(angle) - b * math.sin(angle)
            y[begin + rotary // 2 + i] = b * math.cos(angle) + a * math.sin(angle)
    return y


def has_window(config, i):
    if config["model_type"] == "gemma2":
        return i % 2 == 0
    return (i + 1) % 6 != 0 if config["model_type"] == "gemma3_text" else "sliding_window" in config


def rotation(config, i, position):
    """The position that a layer's rotation sees, and its base."""
    if config["model_type"] == "gemma3_text":
        if has_window(config, i):
            return position, config["rope_local_base_freq"]
        return position / config["rope_scaling"]["factor"], config["rope_theta"]
    return position, config.get("rope_theta", config.get("rotary_emb_base"))


def projected(config, weights, layer, x):
    width, head, kv = sizes(config)
    if config["model_type"] == "gpt_neox":
        rows = linear(x, weights, layer + "attention.query_key_value")
        return ([a for h in range(0, len(rows), 3 * head) for a in rows[h + k * head : h + (k + 1) * head]] for k in range(3))
    if config["model_type"] == "phi3":
        qkv = times(x, weights[layer + "self_attn.qkv_proj.weight"])
        return qkv[:width], qkv[width : width + kv], qkv[width + kv :]
    q, k, v = (linear(x, weights, f"{layer}self_attn.{name}_proj") for name in "qkv")
    if layer + "self_attn.q_norm.weight" in weights:
        q = normed_heads(config, q, head, weights[layer + "self_attn.q_norm.weight"])
        k = normed_heads(config, k, head, weights[layer + "self_attn.k_norm.weight"])
    return q, k, v


def attention(config, weights, i, layer, rows):
    """What each row's heads see, before the projection back."""
    _, head, kv = sizes(config)
    heads = config["num_attention_heads"]
    rotary = int(config.get("partial_rotary_factor", config.get("rotary_pct", 1)) * head)
    scale = 1 / math.sqrt(config.get("query_pre_attn_scalar", head))
    window = config["sliding_window"] if has_window(config, i) else len(rows)
    cap = config.get("attn_logit_softcapping")
    keys, values, results = [], [], []
    for t, x in enumerate(rows):
        q, k, v = projected(config, weights, layer, x)
        q, k = (turned(each, head, rotary, *rotation(config, i, t)) for each in (q, k))
        keys.append(k)
        values.append(v)
        seen = range(max(0, t - window + 1), t + 1)
        result = []
        for h in range(heads):
            g = h * (kv // head) // heads * head
            scores = [capped(scale * sum(q[h * head + j] * keys[s][g + j] for j in range(head)), cap) for s in seen]
            powers = [math.exp(score) for score in scores]
            for j in range(head):
                result.append(sum(p * values[s][g + j] for p, s in zip(powers, seen)) / sum(powers))
        results.append(result)
    return results


def feed_forward(config, weights, layer, x):
    if config["model_type"] == "gpt_neox":
        up = linear(x, weights, layer + "mlp.dense_h_to_4h")
        return linear([a * (1 + math.erf(a / math.sqrt(2))) / 2 for a in up], weights, layer + "mlp.dense_4h_to_h")
    if config["model_type"] == "phi3":
        both = times(x, weights[layer + "mlp.gate_up_proj.weight"])
        gate, up = both[: len(both) // 2], both[len(both) // 2 :]
    else:
        gate, up = (times(x, weights[f"{layer}mlp.{name}_proj.weight"]) for name in ("gate", "up"))
    if is_gemma(config):
        gate = [a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) / 2 for a in gate]
    else:
        gate = [a / (1 + math.exp(-a)) for a in gate]
    return times([a * b for a, b in zip(gate, up)], weights[layer + "mlp.down_proj.weight"])


def neox_logits(config, weights, ids):
    def norm(x, name):
        return layer_normed(x, weights, name, config["layer_norm_eps"])

    rows = [weights["gpt_neox.embed_in.weight"][i] for i in ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{i}."
        seen = attention(config, weights, i, layer, [norm(x, layer + "input_layernorm") for x in rows])
        for t, x in enumerate(rows):
            beside = feed_forward(config, weights, layer, norm(x, layer + "post_attention_layernorm"))
            rows[t] = plus(plus(x, linear(seen[t], weights, layer + "attention.dense")), beside)
    return [times(norm(x, "gpt_neox.final_layer_norm"), weights["embed_out.weight"]) for x in rows]


def logits_of(config, weights, ids):
    if config["model_type"] == "gpt_neox":
        return neox_logits(config, weights, ids)

    def norm(x, name):
        scale = weights[name + ".weight"]
        if "layer_norm_eps" in config:
            return layer_normed(x, weights, name, config["layer_norm_eps"])
        return normed(x, [1 + a for a in scale] if is_gemma(config) else scale, config["rms_norm_eps"])

    def before(x, name):
        return x if config["model_type"] == "olmo2" else norm(x, layer + name)

    def after(x, name):
        return x if config["model_type"] in ("phi3", "stablelm") else norm(x, layer + name)

    size = math.sqrt(config["hidden_size"]) if is_gemma(config) else 1
    rows = [[size * a for a in weights["model.embed_tokens.weight"][i]] for i in ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        second = "pre_feedforward_layernorm" if is_gemma(config) else "post_attention_layernorm"
        seen = attention(config, weights, i, layer, [before(x, "input_layernorm") for x in rows])
        for t, x in enumerate(rows):
            x = plus(x, after(times(seen[t], weights[layer + "self_attn.o_proj.weight"]), "post_attention_layernorm"))
            added = feed_forward(config, weights, layer, before(x, second))
            rows[t] = plus(x, after(added, "post_feedforward_layernorm"))
    head = weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    cap = config.get("final_logit_softcapping")
    return [[capped(z, cap) for z in times(norm(x, "model.norm"), head)] for x in rows]


def main():
    for config in OLMO2, PHI3, GEMMA2, GEMMA3, NEOX, STABLELM:
        rng = random.Random(config["model_type"])
        weights = make_weights(config, rng)
        ids = [rng.randrange(config["vocab_size"]) for _ in range(17)]
        golden = {"config": config, "weights": weights, "ids": ids, "logits": logits_of(config, weights, ids)}
        path = pathlib.Path(__file__).with_name(config["model_type"] + ".json")
        path.write_text(json.dumps(golden).replace('], "', '],\n"') + "\n")


if __name__ == "__main__":
    main()
