"""vesuvius 0.2.4 predict on a CPU: MODEL INPUT OUTPUT. As shipped it feeds half precision to float32 weights."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from vesuvius.models.run import inference

inference.VCDataset.__init__ = functools.partialmethod(inference.VCDataset.__init__, return_as_type="np.float32")
model, source, output = sys.argv[1:]
Path(output).mkdir(parents=True, exist_ok=True)
found = inference.Inferer(
    model_path=model,
    input_dir=source,
    output_dir=output,
    do_tta=False,
    device="cpu",
    num_dataloader_workers=0,
    compression_level=3,
).infer()
if found is None:
    sys.exit("predict failed")
