#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads the event files of a training that was killed often with TensorBoard, and checks that it shows every step once.

Needs tensorboard (an oracle only); run by hand, never by a build or a test:

    mkdir /tmp/events
    BRAISE_EVENT_FILES=/tmp/events build/cpu-release/tests/test_stages_shared_telemetry '[.tensorboard]'
    tests/stages/shared/telemetry/read_with_tensorboard.py /tmp/events
"""

import pathlib
import sys
import time

from tensorboard import context
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.data import server_ingester
from tensorboard.util import grpc_util

STEPS = range(1, 61)
RECIPE = b"# Recipe\n\n    steps: 60\n"


def check(reader, losses, validations, texts):
    assert [p.step for p in losses] == list(STEPS), (reader, [p.step for p in losses])
    assert all(abs(p.value - (5 / p.step + 1 / 3)) < 1e-6 for p in losses), reader
    assert [p.step for p in validations] == [s for s in STEPS if s % 2 == 0], (reader, [p.step for p in validations])
    assert texts == [RECIPE], (reader, texts)
    print(reader, "shows every step once")


folder = max(pathlib.Path(sys.argv[1]).iterdir(), key=lambda attempt: int(attempt.name)) / "tensorboard"
print(len(list(folder.iterdir())), "event files in", folder)

old = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
old.Reload()
texts = [text for event in old.Tensors("recipe") for text in event.tensor_proto.string_val]
check("the Python reader", old.Scalars("train/loss"), old.Scalars("validation/loss"), texts)

server = server_ingester.SubprocessServerDataIngester(
    server_binary=server_ingester.get_server_binary(),
    logdir=str(folder),
    reload_interval=1,
    channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
    samples_per_plugin={"scalars": 0, "text": 0},
    extra_flags=[],
)
server.start()
time.sleep(2)
new, request = server.data_provider, context.RequestContext()
scalars = new.read_scalars(request, experiment_id="", plugin_name="scalars", downsample=1000)["."]
tensors = new.read_tensors(request, experiment_id="", plugin_name="text", downsample=1000)["."]
texts = [text for datum in tensors["recipe"] for text in datum.numpy]
check("the data server", scalars["train/loss"], scalars["validation/loss"], texts)
