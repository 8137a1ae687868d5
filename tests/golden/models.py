#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/models/<name>/: tiny random models, and what Hugging Face transformers makes of them in fp64.

    config.json         as save_pretrained of transformers 4 writes it
    config.v5.json      as that of transformers 5 does
    model.safetensors   fp32
    golden.json         a batch, its logits, losses and gradients, how sensitive they are, and a short training

Needs torch and transformers (an oracle only); run by hand, never by a build or a test: first with transformers 4, then
with 5, which writes its config files and checks that its numbers are those of 4.
"""

import json
import math
import pathlib
import re
import tempfile
import zlib

import safetensors.torch
import torch

# The models round to fp32 in places (norms, rotary angles, the softmax) whatever their dtype. Here they shall not.
FP32 = torch.float32
torch.set_default_dtype(torch.float64)
torch.float32 = torch.float = torch.float64
torch.Tensor.float = torch.Tensor.double

import transformers  # noqa: E402

SEQUENCES = 2
LAST = 3  # positions of each sequence whose logits are kept
IGNORED = -100
DRAWS = 8  # of changed weights
TRAINING_STEPS = 20
NEW = int(transformers.__version__.split(".")[0]) >= 5


def llama(**options):
    return {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 28,
        "vocab_size": 41,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **options,
    }


# name: (model_type, options, tokens in a sequence, whether to train)
MODELS = {
    "gpt2": (
        "gpt2",
        {
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_inner": 36,
            "n_positions": 40,
            "vocab_size": 53,
            "activation_function": "gelu_new",
            "bos_token_id": None,
            "eos_token_id": None,
        },
        33,
        True,
    ),
    "llama2": ("llama", llama(rms_norm_eps=1e-5, rope_theta=5000.0, tie_word_embeddings=False), 29, True),
    # Wavelengths 6.3, 30, 140 and 664: one that stays, one that is blended, two that are stretched.
    "llama31": (
        "llama",
        llama(
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            rms_norm_eps=1e-5,
            rope_theta=500.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            tie_word_embeddings=False,
        ),
        40,
        False,
    ),
    # The ramp goes over channels 0 to 3 of 4.
    "llama_yarn": (
        "llama",
        llama(
            num_attention_heads=2,
            num_key_value_heads=2,
            rope_theta=100.0,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 4.0,
                "beta_slow": 0.25,
            },
            tie_word_embeddings=False,
        ),
        40,
        False,
    ),
    "llama_linear": (
        "llama",
        llama(
            rope_theta=10000.0,
            rope_scaling={"rope_type": "linear", "factor": 3.0},
            attention_bias=True,
            mlp_bias=True,
            hidden_act="gelu",
            tie_word_embeddings=True,
        ),
        27,
        False,
    ),
    "mistral": ("mistral", llama(head_dim=6, sliding_window=7, rope_theta=1000000.0), 31, False),
    "qwen2": (
        "qwen2",
        llama(
            hidden_size=18,
            num_attention_heads=3,
            num_key_value_heads=1,
            rope_theta=1000000.0,
            tie_word_embeddings=True,
        ),
        25,
        False,
    ),
    "qwen3": (
        "qwen3",
        llama(
            head_dim=6,
            rope_theta=1000000.0,
            use_sliding_window=True,
            sliding_window=9,
            max_window_layers=0,
            tie_word_embeddings=False,
        ),
        37,
        False,
    ),
    "gemma": ("gemma", llama(num_attention_heads=2, num_key_value_heads=1, head_dim=10, vocab_size=61), 26, False),
    "starcoder2": (
        "starcoder2",
        llama(
            intermediate_size=36,
            norm_epsilon=1e-5,
            use_bias=True,
            sliding_window=11,
            rope_theta=100000.0,
            vocab_size=43,
        ),
        34,
        False,
    ),
}


def set_values(name, model):
    """Values of fp32 such that every part of the model counts."""
    for parameter_name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {parameter_name}".encode()))
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            one = 0.0 if parameter_name.endswith("bias") or model.config.model_type == "gemma" else 1.0
            values = one + 0.3 * values
        elif "embed" in parameter_name or ".wte." in parameter_name or ".wpe." in parameter_name:
            values *= 0.4
        else:
            inputs_first = model.config.model_type == "gpt2"
            values /= math.sqrt(parameter.shape[0 if inputs_first else 1])
        with torch.no_grad():
            parameter.copy_(values.to(FP32))


def make_model(name):
    model_type, options, length, _ = MODELS[name]
    config = transformers.AutoConfig.for_model(model_type, **options)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    set_values(name, model)
    return model, length


def write_config(model, path):
    config = type(model.config)(**MODELS[path.parent.name][1])
    config.architectures = [type(model).__name__]
    config.dtype = "float32"
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        path.write_text((pathlib.Path(folder) / "config.json").read_text())


def make_batch(name, vocabulary, length):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    ids = torch.randint(vocabulary, (SEQUENCES, length), generator=generator)
    targets = torch.randint(vocabulary, (SEQUENCES, length), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.2] = IGNORED
    return ids, targets


def losses_of(logits, targets):
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(targets.shape)


def mean_loss(model, ids, targets):
    return losses_of(model(input_ids=ids, use_cache=False).logits, targets).sum() / (targets != IGNORED).sum()


def check_slope(model, ids, targets):
    """That a difference quotient is the gradient so exactly that nothing in between was fp32."""
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
    slope = sum((p.grad * d).sum().item() for p, d in zip(model.parameters(), directions))

    def moved(by):
        for parameter, direction in zip(model.parameters(), directions):
            parameter.add_(by * direction)
        loss = mean_loss(model, ids, targets).item()
        for parameter, direction in zip(model.parameters(), directions):
            parameter.sub_(by * direction)
        return loss

    step = 2e-5
    with torch.no_grad():
        one = (moved(step) - moved(-step)) / (2 * step)
        two = (moved(2 * step) - moved(-2 * step)) / (4 * step)
    assert abs((4 * one - two) / 3 - slope) < 1e-7 * max(1, abs(slope)), ((4 * one - two) / 3, slope)


def gradient_summary(gradient):
    flat = gradient.flatten()
    count = flat.numel()
    return {
        "values": [flat[k * (count - 1) // 7].item() for k in range(8)],
        "largest": flat.abs().max().item(),
        "norm": flat.norm().item(),
        "sum": (flat * (torch.arange(count) % 7 + 1)).sum().item(),
    }


def sensitivity(model, ids, targets):
    """How much results change, in the worst of some draws, for each unit of relative change of all weights: what one
    rounding of them does, over its size. Logits and losses relative to values above 1, the gradient of a parameter
    relative to its largest element.
    """
    values = [p.detach().clone() for p in model.parameters()]

    def results():
        model.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits
        losses = losses_of(logits, targets)
        (losses.sum() / (targets != IGNORED).sum()).backward()
        return [logits[:, -LAST:].detach(), losses.detach(), *(p.grad.clone() for p in model.parameters())]

    before = results()
    scales = [t.abs().clamp(min=1) for t in before[:2]] + [t.abs().max() for t in before[2:]]
    generator = torch.Generator().manual_seed(2)
    step = 1e-7
    worst = [0.0] * len(before)
    for _ in range(DRAWS):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), values):
                parameter.copy_(value * (1 + step * (2 * torch.rand(value.shape, generator=generator) - 1)))
        for i, (after, old, scale) in enumerate(zip(results(), before, scales)):
            worst[i] = max(worst[i], ((after - old).abs() / scale).max().item() / step)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values):
            parameter.copy_(value)
    return {k: float(f"{v:.3g}") for k, v in zip(["logits", "losses", "gradients"], [*worst[:2], max(worst[2:])])}


def training_batch(step, length, vocabulary):
    t = torch.arange(length + 1)
    rows = torch.stack([(7 * step + 13 * b + 3 * t * t + 5 * t + 1) % vocabulary for b in range(SEQUENCES)])
    return rows[:, :-1], rows[:, 1:]


def train(model, length):
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.95),
        eps=1e-8,
        foreach=False,
    )
    losses, norms = [], []
    for step in range(TRAINING_STEPS):
        optimizer.zero_grad()
        loss = mean_loss(model, *training_batch(step, length, model.config.vocab_size))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "norms": norms}


def rounded(tensor):
    return [rounded(row) for row in tensor] if tensor.dim() > 0 else float(f"{tensor.item():.9g}")


def golden_of(name, model, length):
    ids, targets = make_batch(name, model.config.vocab_size, length)
    logits = model(input_ids=ids, use_cache=False).logits
    losses = losses_of(logits, targets)
    (losses.sum() / (targets != IGNORED).sum()).backward()
    golden = {
        "ids": ids.tolist(),
        "targets": targets.tolist(),
        "logits": rounded(logits[:, -LAST:]),
        "losses": rounded(losses),
        "gradients": {n: gradient_summary(p.grad) for n, p in model.named_parameters()},
    }
    check_slope(model, ids, targets)
    golden["sensitivity"] = sensitivity(model, ids, targets)
    if MODELS[name][3]:
        golden["training"] = train(model, length)
    return golden


def check_same(path, a, b):
    """Numbers equal but for the order of fp64 sums and the digits that are kept."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            check_same(f"{path}.{key}", a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)):
            check_same(f"{path}[{i}]", x, y)
    else:
        assert abs(a - b) <= 2e-8 * max(1, abs(a)), (path, a, b)


def main():
    torch.set_num_threads(1)
    for name in MODELS:
        folder = pathlib.Path(__file__).with_suffix("") / name
        folder.mkdir(parents=True, exist_ok=True)
        model, length = make_model(name)
        values = {n: p.detach().to(FP32).contiguous() for n, p in model.named_parameters()}
        golden = golden_of(name, model, length)
        if NEW:
            write_config(model, folder / "config.v5.json")
            old = json.loads((folder / "golden.json").read_text())
            del old["made_by"]
            check_same(name, old, golden)
            continue
        write_config(model, folder / "config.json")
        safetensors.torch.save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
        versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
        text = json.dumps({"made_by": versions, **golden}, indent=1)
        text = re.sub(r"\[\s+([^\[\]]+?)\s+\]", lambda row: "[" + " ".join(row[1].split()) + "]", text)
        (folder / "golden.json").write_text(text + "\n")
        print(name, sum(v.numel() for v in values.values()), "parameters, loss", sum(map(sum, golden["losses"])))


if __name__ == "__main__":
    main()
