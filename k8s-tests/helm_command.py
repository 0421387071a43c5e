"""`helm` for the commands of a page: their words, carried out by Helm's own Go SDK.

VALUES names a file with what the cluster at hand needs (images, storage); it is added to the values of a command.
"""

import argparse
import os
import sys
from pathlib import Path

import yaml
from helm_python import Config


def main() -> None:
    """Runs one command; a flag that is not here fails, as a misspelt one would."""
    parser = argparse.ArgumentParser("helm", allow_abbrev=False)
    parser.add_argument("command", choices=["install", "upgrade", "rollback", "test", "uninstall"])
    parser.add_argument("release")
    parser.add_argument("chart", nargs="?")
    parser.add_argument("-n", "--namespace", required=True)
    parser.add_argument("--create-namespace", action="store_true")
    parser.add_argument("--logs", action="store_true")
    parser.add_argument("--timeout", type=_seconds, default=300)
    words = parser.parse_args()
    values = yaml.safe_load(Path(os.environ["VALUES"]).read_text())
    with Config(namespace=words.namespace) as helm:
        match words.command:
            case "install":
                release = helm.install(
                    words.chart,
                    words.release,
                    values,
                    namespace=words.namespace,
                    create_namespace=words.create_namespace,
                )
                sys.stdout.write(f"NOTES:\n{release['notes']}\n")
            case "upgrade":
                helm.upgrade(words.chart, words.release, values, namespace=words.namespace)
            case "rollback":
                helm.rollback(words.release)
            case "test":
                done = helm.test(words.release, timeout=words.timeout, logs=words.logs)
                sys.stdout.write(str(done.get("logs")))
            case "uninstall":
                helm.uninstall(words.release)


def _seconds(text: str) -> int:
    """`16m`, `960s`."""
    return int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


main()
