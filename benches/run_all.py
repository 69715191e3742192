#!/usr/bin/env python3
"""run_all.py [--short]: builds bartizan in release mode, installs the peers, runs everything interleaved, prints Markdown tables.

--short is a smoke run for CI: bartizan and the floor, half-second tests, no threshold. The long form writes results/ and is
what docs/performance.md is made from."""
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent
SIDE = HERE / "side-by-side"


def main():
    short = "--short" in sys.argv[1:]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "bartizan-bench"
    os.environ.setdefault("BENCH_WORK", str(cache))
    pathlib.Path(os.environ["BENCH_WORK"]).mkdir(parents=True, exist_ok=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
    profile = "quick-release" if short else "release"
    subprocess.run(["cargo", "build", "--locked", "--profile", profile, "--package", "bartizan"], cwd=TOP, check=True)
    os.environ["BARTIZAN"] = str(target / profile / "bartizan")
    install = [SIDE / "install.sh", "--short"] if short else [SIDE / "install.sh"]
    subprocess.run(["bash", *map(str, install)], check=True)
    results = SIDE / "results"
    results.mkdir(exist_ok=True)
    out = results / time.strftime("%Y%m%d-%H%M%S.jsonl")
    tests = "start,h1_fixed,h1_max,grpc_fixed,grpc_max,bulk,conn_server"
    if short:
        command = ["--rounds", "1", "--secs", "0.25", "--tests", tests, "none", "floor-l7", "bartizan"]
    else:
        command = ["--rounds", "3", "--tests", tests + ",idle", "none", "floor-l7", "envoy:l7", "bartizan"]
    subprocess.run([sys.executable, str(SIDE / "run.py"), "--out", str(out), *command], check=True)
    subprocess.run([sys.executable, str(SIDE / "report.py"), str(out)], check=True)


if __name__ == "__main__":
    main()
