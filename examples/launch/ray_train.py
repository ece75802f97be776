"""Two workers under Ray Train, started again from the last checkpoint when one of them is lost.

    pip install apr_tutorial 'ray[train]'
    python ray_train.py --dataset movielens-1m --out report
"""
import subprocess
import sys


def worker(config):
    "Ray has set TF_CONFIG. A process of its own, since TensorFlow's cluster can be joined once in a process."
    ended = subprocess.run([sys.executable, "-m", "apr_tutorial", "run", "--strategy", "multi-worker", "--resume", *config["options"]], cwd=config["folder"])
    if ended.returncode:
        raise RuntimeError(f"exit code {ended.returncode}")


def main(options, workers=2, restarts=3):
    from pathlib import Path

    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    trainer = TensorflowTrainer(worker, train_loop_config={"options": options, "folder": str(Path.cwd())},
                                scaling_config=ScalingConfig(num_workers=workers), run_config=RunConfig(failure_config=FailureConfig(max_failures=restarts)))
    trainer.fit()


if __name__ == "__main__":
    main(sys.argv[1:])
