#!/usr/bin/env bash
# Installs NVIDIA's CUDA 13.0 compiler from PyPI into .cuda/ of this repository, where build.rs
# finds it. Needs python3 with pip; about 250 MB on disk. Running it again does nothing.
# Prints the path of nvcc.
set -euo pipefail

# One release of the toolkit: an unpinned companion comes newer, and a 13.0 driver refuses its PTX.
packages=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85
)

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD/.cuda"
nvcc="$root/nvidia/cu13/bin/nvcc"
stamp="$root/packages"

die() {
  echo "install-nvcc: $*" >&2
  exit 1
}

if [[ -x "$nvcc" && -f "$stamp" && "$(cat "$stamp")" == "${packages[*]}" ]]; then
  echo "$nvcc"
  exit 0
fi

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-aarch64) ;;
  *) die "PyPI has nvcc for Linux on x86-64 and arm64 only; install the CUDA toolkit and set CUDA_HOME" ;;
esac
command -v python3 >/dev/null || die "python3 is missing; install it, or the CUDA toolkit, and set CUDA_HOME"
python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip; install it (Debian: apt-get install python3-pip)"

# Into a fresh folder first, so that an interrupted run leaves no half toolkit behind.
fresh="$root.new"
rm -rf "$fresh"
trap 'rm -rf "$fresh"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
  --target "$fresh" "${packages[@]}" >&2 || die "pip could not install the packages; see its message above"
[[ -f "$fresh/nvidia/cu13/bin/nvcc" ]] || die "the packages hold no nvidia/cu13/bin/nvcc"
chmod -R u+rwX "$fresh"
chmod u+x "$fresh"/nvidia/cu13/bin/* "$fresh"/nvidia/cu13/nvvm/bin/*
"$fresh/nvidia/cu13/bin/nvcc" --version >&2 || die "the installed nvcc does not run on this system"
echo "${packages[*]}" >"$fresh/packages"
rm -rf "$root"
mv "$fresh" "$root"
# Cargo looks for nvcc again only when build.rs changes.
touch build.rs
echo "$nvcc"
