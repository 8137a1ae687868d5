#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/event_files.json: the records that TensorBoard writes for events such as Braise's, all at wall
time 1.5.

Needs tensorboard (an oracle only); run by hand, never by a build or a test.
"""

import io
import json
import pathlib

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def record(event):
    sink = io.BytesIO()
    RecordWriter(sink).write(event.SerializeToString())
    return sink.getvalue().hex()


def event(**fields):
    return event_pb2.Event(wall_time=1.5, **fields)


def scalars(values):
    return summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values]
    )


def text(tag, markdown):
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    value = summary_pb2.Summary.Value(
        tag=tag,
        metadata=summary_pb2.SummaryMetadata(plugin_data=plugin),
        tensor=tensor_pb2.TensorProto(dtype=7, string_val=[markdown.encode()], tensor_shape=shape),
    )
    return summary_pb2.Summary(value=[value])


start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
records = {
    "file_version": record(event(file_version="brain.Event:2")),
    "restart_after_7": record(event(step=8, session_log=start)),
    "restart_after_300": record(event(step=301, session_log=start)),
    "scalars": record(event(step=7, summary=scalars([("train/loss", 1.5), ("train/lr", 3e-4)]))),
    "many_scalars": record(event(step=2**40, summary=scalars([(f"curve/{i}", float(i)) for i in range(40)]))),
    "infinite": record(event(step=7, summary=scalars([("train/loss", float("inf"))]))),
    "text": record(event(step=7, summary=text("recipe", "# Größe\n\n    steps: 7\n"))),
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n")
