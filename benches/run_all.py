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


def policy_peers():
    """Rules by the thousand, and tokens: remembered, each one new, and the same bytes that nobody looks at."""
    rules = [f"{peer}rbac={count}" for count in (1, 100, 1000, 10000) for peer in ("envoy:l7,", "bartizan:")]
    tokens = [f"{peer}{what}" for alg in ("rs256", "es256") for what in (f"opaque={alg}", f"jwt={alg}", f"jwt={alg},many") for peer in ("envoy:l7,", "bartizan:")]
    return [*rules, *tokens, "envoy:l7,jwt=rs256,cache"]


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
        runs = [["--rounds", "1", "--secs", "0.25", "--tests", tests, "none", "floor-l7", "bartizan"],
                ["--rounds", "1", "--secs", "0.25", "--tests", "h1_max", "bartizan:rbac=1000", "bartizan:jwt=rs256", "bartizan:jwt=es256,many"]]
    else:
        runs = [["--rounds", "3", "--tests", tests + ",idle", "none", "floor-l7", "envoy:l7", "bartizan"],
                ["--rounds", "3", "--tests", "h1_max", *policy_peers()]]
    for at, command in enumerate(runs):
        part = out.with_suffix(f".{at}.jsonl")
        subprocess.run([sys.executable, str(SIDE / "run.py"), "--out", str(part), *command], check=True)
        subprocess.run([sys.executable, str(SIDE / "report.py"), str(part)], check=True)


if __name__ == "__main__":
    main()
