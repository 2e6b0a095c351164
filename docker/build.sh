#!/usr/bin/env bash
# Build the images: docker/build.sh [serve|mlflow|export|train]...   (all of them by default)
#
#   ENGINE=podman|docker         what builds (default: podman if it is there)
#   PREFIX=lissom TAG=latest     images are called $PREFIX-serve:$TAG and so on
#   BASE_IMAGE=python:3.11-slim  any image with Debian's useradd and Python 3.11 with venv
#   TORCH_INDEX=URL              where the train image's torch comes from; default: the CPU build. CUDA:
#                                https://download.pytorch.org/whl/cu130. Empty: PyPI or the local wheels.
#   PIP_CERT, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS (a folder of wheels), PIP_CONFIG_FILE
#                                pip's own settings of this host, used while building and not baked in
set -euo pipefail
cd "$(dirname "$0")/.."

engine=${ENGINE:-$(command -v podman || command -v docker || true)}
[ -n "$engine" ] || { echo "docker/build.sh: neither podman nor docker is here; install one, or set ENGINE" >&2; exit 1; }
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(serve mlflow export train)
cpu=https://download.pytorch.org/whl/cpu

settings=$(mktemp -d)
trap 'rm -rf "$settings"' EXIT
{
    echo "[global]"
    [ -z "${PIP_CERT:-}" ] || echo "cert = /run/secrets/ca"
    [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
    [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || echo "extra-index-url = $PIP_EXTRA_INDEX_URL"
    [ -z "${PIP_FIND_LINKS:-}" ] || echo "find-links = /wheels"
} > "$settings/pip.conf"
options=(--secret "id=pip,src=${PIP_CONFIG_FILE:-$settings/pip.conf}")
[ -z "${PIP_CERT:-}" ] || options+=(--secret "id=ca,src=$PIP_CERT")
[ -z "${PIP_FIND_LINKS:-}" ] || options+=(--build-context "wheels=$PIP_FIND_LINKS")
[ -z "${BASE_IMAGE:-}" ] || options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || revision+=-dirty

for target in "${targets[@]}"; do
    case $target in
        train) index=${TORCH_INDEX-$cpu} ;;
        export) index=${TORCH_INDEX-$cpu}; index=${index:+$cpu} ;;  # needs no GPU, whatever trains
        serve | mlflow) index= ;;
        *) echo "docker/build.sh: $target: there are serve, mlflow, export and train" >&2; exit 1 ;;
    esac
    "$engine" build "${options[@]}" --file docker/Dockerfile --target "$target" \
        --build-arg "TORCH_INDEX=$index" --build-arg "REVISION=$revision" \
        --tag "${PREFIX:-lissom}-$target:${TAG:-latest}" .
done
