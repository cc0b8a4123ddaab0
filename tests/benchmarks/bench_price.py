"""What page New audit says an audit will take, against what its shards then took, both by one worker.

    python tests/benchmarks/bench_price.py [--images 128]

A check prices an audit from two batches of the noised probe; the same audit follows. Ratio = seconds predicted / device seconds of the shards; the page says
± 25 %, so 0.75 to 1.25 is the target. One line for the attacks of the default budget, then one for each attack with a probe of its own.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import bench_run  # noqa: E402  (a script beside this one)

from audit.config import load  # noqa: E402
from audit.jobs.store import Store  # noqa: E402
from audit.jobs.submit import CHECK_FIELDS, submit_audit, submit_check  # noqa: E402
from audit.request import Request  # noqa: E402

CHOICES = ((), ("loss_eps",), ("pia",), ("secmi",), ("sima",), ("dime",), ("pfami",), ("gray_free",))


def ended(config, job):
    """The job once it has ended. Raises SystemExit where it failed."""
    while (now := Store(config.home).get(job.id)).active:
        time.sleep(0.2)
    if now.state != "done":
        raise SystemExit(f"{now.kind} {now.state}: {now.error}")
    return now


def main(argv=None):
    """Print one line for each choice of attacks. Returns 0."""
    parser = argparse.ArgumentParser(description="Predicted against measured seconds.")
    parser.add_argument("--images", type=int, default=128, help="of each class (%(default)s)")
    parser.add_argument("--preset", default="quick", help="quick, standard or thorough (%(default)s)")
    args = parser.parse_args(argv)
    bench_run.A_SIDE = args.images
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        os.environ |= {"AUDIT_HOME": str(folder / "home"), "AUDIT_IDLE_EXIT": "5"}
        config = load().prepare_home()
        sets = {side: str(bench_run.first_images(bench_run.DEMO / f"{side}.zip", folder / side)) for side in ("members", "nonmembers")}
        inputs = {"checkpoint": str(bench_run.DEMO / "leaky"), **sets}
        for seed, attacks in enumerate(CHOICES):  # a seed each: free generations are kept for the next audit with the same noise
            asked = {"preset": args.preset, "seed": seed, "device": "auto", "precision": "fp32", "attacks": list(attacks)}
            price = ended(config, submit_check(config, dict.fromkeys(CHECK_FIELDS) | inputs | asked)).result["price"]
            job, _ = submit_audit(config, Request(**inputs, name="price", preset=args.preset, attacks=attacks, seed=seed))
            cost = json.loads((Path(ended(config, job).folder) / "report.json").read_text())["cost"]
            assert cost["model_calls"] == price["model_calls"]
            words = f"{price['model_calls']:,} calls: {price['seconds']:.1f} s predicted, {cost['seconds']:.1f} s taken, ratio {price['seconds'] / cost['seconds']:.2f}"
            print(f"{', '.join(attacks) or 'default budget'}: {words}", flush=True)
        time.sleep(6)  # the worker ends before its home goes
    return 0


if __name__ == "__main__":
    sys.exit(main())
