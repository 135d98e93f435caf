#!/bin/bash
# Makes what lies in tests/old/69677e6: make.sh CHECKOUT FOLDER, in the root of this repository; CHECKOUT has a .venv.
set -ex
BASE=$1; TO=$2
export PYTHONPATH=$BASE/tests:$PWD/tests/old PYTHONHASHSEED=0
cd $TO
$BASE/.venv/bin/python - <<'P'
import numpy as np
from pathlib import Path
from silofold.data import silo
folder = Path("silos"); folder.mkdir()
rng = np.random.default_rng(16)
layout = silo.Layout(tuple("abcd"), (8, 8), "none", "made by a test: the row of a bright bar is the class")
def stream(n):
    labels = rng.integers(4, size=n).astype(np.int32)
    images = rng.integers(0, 60, size=(n, 8, 8)).astype(np.uint8)
    for image, label in zip(images, labels): image[2*label:2*label+2, 1:7] += 140
    return silo.SplitStream(n, [(images, labels, np.zeros(n, np.int32))])
infos = [silo.write_silo(folder/f"silo_{i:04d}.h5", f"silo_{i:04d}", (f"writer {i}",), layout, {"train": stream(a), "test": stream(b)})
         for i, (a, b) in enumerate(((24, 9), (13, 8), (9, 6)))]
silo.write_manifest(folder, layout, infos)
P
cat > run.toml <<'P'
seed = 5
[rounds]
count = 3
keep_checkpoints = 2
start_window = 60
update_window = 60
[local]
epochs = 1
batch_size = 8
lr = 0.05
[model]
name = "old_model:Small"
P
S=$BASE/.venv/bin/silofold
$S launch run.toml --data silos --out federated --servers 2 --workers 2
$S evaluate federated --personalise 1
$S baseline local federated --out local --workers 1 --set rounds.count=2 --set rounds.keep_checkpoints=1
$S evaluate local
$S baseline central federated --out central --set rounds.count=2 --set rounds.keep_checkpoints=1
$S evaluate central
SILOFOLD_FAULT="scheduler: kill @ round 3 before settle; server 0: kill @ round 3 before settle; worker 0: kill @ round 3 before settle; worker 1: kill @ round 3 before settle" $S launch run.toml --data silos --out unfinished --servers 1 --workers 2 --set rounds.count=4 --set local.keep_momentum=true --set 'server_optimizer={name="sgd",momentum=0.5}' || echo ended $?
cp -r federated longer
rm longer/predictions.h5
$S launch --resume longer --set rounds.count=4 --servers 1 --workers 1
rm -rf after; mkdir after; cp longer/metrics.jsonl after/resumed.jsonl; rm -r longer
find . -name .lock -delete
