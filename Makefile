# Everything a person does with this project. `make` alone lists it.
PYTHON := .venv/bin/python
# The launcher ends when make is killed, and gets make's signals itself: therefore exec and --with-parent.
STACK := exec $(PYTHON) -m backupsite.stack

.DEFAULT_GOAL := help
.PHONY: help demo smoke up test tests check coverage format bench-catalogue bench-grants bench-api bench-oracle bench-schedule bench bench-stack bench-peers bench-engine bench-block-size bench-changed-blocks lab-zfs lab-agent lab-agent-zfs lab-agent-systems agent-build bench-agent bench-agent-polls pictures lock clean venv venv-dev

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  BACKUPSITE_PORT=8000   the portal's port; the others follow it"
	@echo "  BACKUPSITE_DATA=./var  where everything is kept"

demo: venv ## Start the service with sample data, run one backup and restore, stay up until Ctrl-C
	@$(STACK) demo --with-parent

smoke: venv ## The same without a person: succeeds only when the restored data is identical
	@$(STACK) smoke --with-parent

up: venv ## Start the service empty, stay up until Ctrl-C
	@$(STACK) up --with-parent

test: venv-dev ## Run the checks and every test this machine can run
	@bash tools/apt-packages.sh
	@bash tools/test-guest.sh
	@$(MAKE) --no-print-directory --jobs=2 check tests

tests: venv-dev
	@# Three for two cores: many tests wait for servers that they have started. A fourth costs more than it gives.
	@$(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: venv-dev ## Format, lint, types, import rules, Django's own checks, missing migrations
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports
	@$(PYTHON) manage.py check
	@$(PYTHON) manage.py makemigrations --check --dry-run

# One after another: of each part 95 % of lines and branches must have run.
COVERED := engine/crypto.py,engine/envelope.py,engine/enveloping.py,engine/sealing.py,engine/hashing.py,engine/recovery.py \
	definitions/retention.py,backups/retainer.py \
	backups/removal/*,backups/moved_packs.py,vaults/marking.py,vaults/reaper.py,vaults/removal_rules.py \
	backups/committer.py,backups/moves.py,vaults/ledger.py,vaults/keeper.py,vaults/locks.py

coverage: venv-dev ## Branch coverage of keys, retention, removal and commit; less than 95 % of one of them is a failure
	@$(PYTHON) -m pytest -q -n $$(nproc) --dist loadfile --cov --cov-report= tests/engine tests/definitions tests/removal tests/backups tests/vaults
	@for part in $(COVERED); do $(PYTHON) -m coverage report --include="$$part" --fail-under=95 || exit 1; done

format: venv-dev ## Format the code and mend what the linter can
	@$(PYTHON) -m ruff check --fix-only --quiet .
	@$(PYTHON) -m ruff format .

bench: venv-dev ## Measure the data engine: in the running stack, beside restic and borg, changed blocks beside a full read (20 minutes)
	@bash tools/apt-packages.sh
	@bash tools/apt-packages.sh tools/apt-packages-bench.txt
	@$(PYTHON) -m tests.bench

bench-stack: venv-dev ## Only a backup and a restore by the running stack
	@$(PYTHON) -m tests.bench stack

bench-peers: venv-dev ## Only beside restic and borg
	@bash tools/apt-packages.sh tools/apt-packages-bench.txt
	@$(PYTHON) -m tests.bench peers

bench-engine: venv-dev ## Only the engine's inner loop, and other compression levels
	@$(PYTHON) -m tests.bench inner-loop levels

bench-block-size: venv-dev ## Other block sizes: CPU, growth, size of the map, restore
	@$(PYTHON) -m tests.bench block-size

bench-changed-blocks: venv-dev ## Only changed blocks of a QEMU server's disk: 1 % of 10 GiB, nothing, and all of it
	@bash tools/apt-packages.sh
	@$(PYTHON) -m tests.bench changed-blocks

bench-catalogue: venv-dev ## Measure rebuilding and marking with 1,000 manifests over 100,000 packs
	@$(PYTHON) -m tests.bench.catalogue

bench-grants: venv-dev ## Measure how many grants one core signs in a second
	@$(PYTHON) -m tests.bench.grants

bench-api: venv-dev ## Measure every page and every GET for each role with 1,000 tenants, 100,000 servers and 1,000,000 backups
	@bash tools/apt-packages.sh
	@$(PYTHON) -m tests.bench.api

bench-schedule: venv-dev ## Measure dispatch with 100,000 definitions, 10,000 of them due at once
	@bash tools/apt-packages.sh
	@$(PYTHON) -m tests.bench.schedule

bench-oracle: venv-dev ## Compare ten years of fifty schedules in five zones with an oracle, run by run
	@$(PYTHON) -m tests.bench.schedule_oracle

lab-zfs: venv-dev ## Run Dataset and File backups between two emulated machines with real OpenZFS (8 to 16 minutes)
	@bash tools/lab/build_openzfs.sh
	@bash tools/lab/build_guest.sh
	@$(PYTHON) tools/lab/openzfs.py

agent-build: venv ## Build the agent program as one archive for the installer, in var/agent (a minute; needs PyPI). ARGS="--base bullseye": for older systems too; --deb: a .deb besides
	@$(PYTHON) tools/agent/build.py $(ARGS)

bench-agent-polls: venv-dev ## Measure polls of 200 agents at once and of 5,000 each minute, on PostgreSQL (5 minutes)
	@bash tools/apt-packages.sh
	@$(PYTHON) -m tests.bench.agent_polls

bench-agent: venv-dev ## Measure the agent program: small files, a stream, nothing changed, memory
	@$(PYTHON) -m tests.bench.agent

lab-agent: venv-dev ## Try an agent with 50,000 files against the running stack: cut network, kill -9, wrong clock, full disk (15 minutes)
	@bash tools/apt-packages.sh
	@bash tools/apt-install.sh acl libfaketime
	@$(PYTHON) -m tests.lab.agent $(ARGS)

lab-agent-systems: venv-dev ## Install the built agent on Debian 11, 12 and 13, from its wheels, with cron, and with systemd in an emulated machine (an hour the first time)
	@bash tools/lab/build_agent_systems.sh
	@$(PYTHON) -m tests.lab.systems $(ARGS)

lab-agent-zfs: venv-dev ## Back up and restore a server whose data lie on real ZFS, by the agent, in an emulated machine (5 to 30 minutes)
	@bash tools/lab/build_openzfs.sh
	@bash tools/lab/build_agent_zfs_guest.sh
	@$(PYTHON) tools/lab/agent_zfs.py

lab-lvm: venv-dev ## Run the driver lvm on real thin volumes in an emulated machine (3 to 10 minutes)
	@bash tools/lab/build_lvm_guest.sh
	@$(PYTHON) tools/lab/lvm.py

pictures: venv-dev ## Make the pictures of the documentation anew, by the tests in the browser (5 minutes)
	@bash tools/apt-packages.sh
	@PICTURES=1 $(PYTHON) -m pytest -n 0 -q tests/ui/test_portal.py tests/ui/test_journeys.py tests/ui/test_wizards.py

lock: ## Write the lock files anew from pyproject.toml
	@bash tools/lock.sh

clean: ## Remove what tools left behind, never the data folder
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

venv:
	@bash tools/bootstrap.sh requirements.lock

venv-dev:
	@bash tools/bootstrap.sh requirements-dev.lock
