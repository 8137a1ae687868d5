#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `braise status` of a run of 2,000 jobs whose journal holds 10,002 events: what a runner and the workers of such a sweep
# leave, with their metrics. Needs python3.
source "$(dirname "$0")/common.sh"
echo "some text" >"$work/text.txt"
cat >"$work/wide.yaml" <<E2
recipe: 1
name: wide
stages:
  s: {kind: tokenize, input: text.txt}
sweep: {random: {samples: 2000, parameters: {stages.s.validation.fraction: {uniform: [0, 0.5]}, seed: {integer: [0, 1000000000]}}}}
E2
"$bin/braise" run "$work/wide.yaml" --set 'sweep={}' --runs "$work/runs" >"$work/run" 2>/dev/null
run=$(tail -1 "$work/run")
"$bin/braise" plan "$work/wide.yaml" --json --runs "$work/none" >"$work/plan.json"
python3 - "$run" "$work/plan.json" <<'P'
import json, os, pathlib, sys
run = pathlib.Path(sys.argv[1])
plan = json.load(open(sys.argv[2]))
for job in plan['jobs']: del job['decision']
(run / 'plan.json').write_text(json.dumps(plan, indent=1) + '\n')
lines = {}
for file in (run / 'journal').iterdir():
    events = [json.loads(line) for line in file.read_text().splitlines()]
    lines['runner' if events[0]['event'] == 'runner_started' else 'worker'] = events
    file.unlink()
metrics = next(run.glob('jobs/s/attempts/*/metrics.jsonl')).read_text()
runner = [lines['runner'][0]]
writer = runner[0]['writer']
for number, job in enumerate(plan['jobs']):
    name, token = job['spec']['name'], '%06x' % number
    own = '%s-1-%s' % (name, token)
    def renamed(event, seq, by): return {**event, 'job': name, 'token': token, 'seq': seq, 'writer': by}
    runner += [renamed(event, len(runner) + i, writer) for i, event in enumerate(lines['runner'][1:-1])]
    worker = [renamed(event, i, own) for i, event in enumerate(lines['worker'])]
    (run / 'journal' / (own + '.jsonl')).write_text(''.join(json.dumps(event) + '\n' for event in worker))
    attempt = run / 'jobs' / name / 'attempts' / ('1-' + token)
    attempt.mkdir(parents=True)
    (attempt / 'metrics.jsonl').write_text(metrics)
runner.append({**lines['runner'][-1], 'seq': len(runner)})
(run / 'journal' / (writer + '.jsonl')).write_text(''.join(json.dumps(event) + '\n' for event in runner))
P
printf '%-50s %8s %8s %8s  (ms)\n' command least median most
events=$(cat "$run"/journal/*.jsonl | wc -l)
"$bin/braise" status "$run" >"$work/status" && sed -n 1p "$work/status"
for format in "" --json; do
  printf '%-50s %s\n' "braise status $format ($events events)" "$(times 5 "$bin/braise" status "$run" $format)"
done
printf '%-50s %s\n' "braise runs RUN ($events events)" "$(times 5 "$bin/braise" runs "$run")"
