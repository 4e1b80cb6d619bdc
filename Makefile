# make demo and make test work on a fresh machine, alone. PYTHON chooses the interpreter (3.11 or 3.12).
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EVALUATE := $(BIN)/reeltable evaluate configs/eval/embedded.yaml

.PHONY: demo test lint format evaluate calibrate bench-decode bench-encode bench-encode-steps bench-offset bench-report bench-tables bench-run bench-nodes soak-cluster soak-train soak-media soak-tables train-lips clean train-fusion train-captions bench-captions bench-shots train-motion bench-motion train-scenes bench-scenes

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --prefer-binary -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## the main job on real sample videos
	$(BIN)/reeltable demo --out demo_out

# Half of the suite waits for Ray, so two files are tested at a time, the longest first; more threads make each slower.
test: lint  ## lint, types, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

evaluate: $(STAMP)  ## measure every figure of the embedded bundle's model card and write it; resumes
	$(EVALUATE)

calibrate: $(STAMP)  ## fit the sound scores on ESC-10 and print what stands in bundle.yaml
	$(EVALUATE) --only sound_calibration

bench-decode: $(STAMP)  ## CPU cost of decoding against decord, PyAV, torchcodec and ffmpeg
	$(BIN)/python -m tests.benchmarks.decode

bench-encode: $(STAMP)  ## clips a second by family, against its own library
	$(BIN)/python -m tests.benchmarks.encode

bench-encode-steps: $(STAMP)  ## what each step of acceleration gives, and moves
	$(BIN)/python -m tests.benchmarks.encode_steps

bench-offset: $(STAMP)  ## how well the content tells the offset of sound and picture
	$(BIN)/python -m tests.benchmarks.offset

bench-captions: $(STAMP)  ## what the caption decoder is worth, and the calibration of its score
	$(EVALUATE) --only captions_from_embedding --only captions_from_names --only real_captions

train-captions: $(STAMP)  ## train the caption decoder; resumes from checkpoints/captions
	$(BIN)/python -m pipeline.training.captions ../shared/data --work checkpoints/captions
bench-shots: $(STAMP)  ## how well cuts are found, and what looking for them costs
	$(BIN)/python -m tests.benchmarks.shots

train-lips: $(STAMP)  ## train the network that reads lips; resumes from checkpoints/lips
	$(BIN)/python -m pipeline.training.lips ../shared/data --work checkpoints/lips

train-fusion: $(STAMP)  ## which fusion: train late, early, bottleneck and each sense alone, print them
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pipeline.training.fusion ../shared/data --work checkpoints/fusion

train-scenes: $(STAMP)  ## train the encoder of scenes; resumes from checkpoints/scenes
	$(BIN)/python -m pipeline.training.scenes ../shared/data --work checkpoints/scenes

bench-scenes: $(STAMP)  ## what it is worth against the evidence alone
	$(EVALUATE) --only scenes

train-motion: $(STAMP)  ## train the network that sees motion; resumes from checkpoints/motion
	$(BIN)/python -m pipeline.training.motion ../shared/data --work checkpoints/motion

bench-motion: $(STAMP)  ## what it is worth on pictures and folds that training never saw
	$(EVALUATE) --only rendered_motion --only fights --only real_motion --only gmdcsa

bench-run: $(STAMP)  ## a whole run against a sequential script and a Ray Data job, its overhead, memory, scaling
	$(BIN)/python -m tests.benchmarks.run

bench-nodes: $(STAMP)  ## where throughput stops following the nodes: 1, 4 and 16 logical ones
	$(BIN)/python -m tests.benchmarks.nodes

bench-tables: $(STAMP)  ## planning a million units, resuming over a hundred thousand records
	$(BIN)/python -m tests.benchmarks.tables

bench-report: $(STAMP)  ## the report of 100,000 clips: written, opened, filtered in Chromium
	$(BIN)/python -m tests.benchmarks.report

soak-tables: $(STAMP)  ## a hundred runs killed at random moments, then finished
	$(BIN)/python -m tests.soak.tables --rounds 100

soak-media: $(STAMP)  ## 10,000 damaged files under the guard: none hangs, none is lost
	$(BIN)/python -m tests.soak.media --files 10000

soak-train: $(STAMP)  ## reeltable train on a real Ray, killed and begun again, on two workers
	$(BIN)/python -m pytest tests/soak/train.py

soak-cluster: $(STAMP)  ## nodes and heads of a cluster killed in the middle of runs
	$(BIN)/python -m tests.soak.cluster

clean:
	rm -rf $(VENV) demo_out build dist
