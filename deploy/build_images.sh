#!/usr/bin/env bash
# Builds headrace-api and headrace-worker with whichever of docker, podman or buildah is here.
#
#   TAG=                    what both images are tagged; else the chart's appVersion, which is what the chart asks for
#   REGISTRY=               put in front of the names: example.com/team
#   CPU=1                   worker: torch without CUDA, and the 135M model inside; its tag ends in -cpu
#   BASE_IMAGE=             another base with Python 3.11 or newer
#   PIP_CONF=               a pip.conf for the build (indexes, proxies, certificates); mounted, never in a layer
#   BUILD_FLAGS=            more flags for the tool, for example "--isolation chroot --volume /wheels:/wheels:ro"
#   SOURCE=                 address of the repository, for the label org.opencontainers.image.source
#   BUILDER=                docker, podman, buildah or a path; else the first one found
#   IMAGES="api worker"     which to build; worker-vllm is the worker with the engine vLLM, its tag ends in -vllm
#                           (CPU=1: -vllm-cpu)
set -euo pipefail
cd "$(dirname "$0")/.."

builder=${BUILDER:-}
for tool in docker podman buildah; do
  [ -n "$builder" ] || ! command -v "$tool" >/dev/null || builder=$tool
done
if [ -z "$builder" ]; then
  echo "make images needs docker, podman or buildah: install one of them (buildah needs no daemon)." >&2
  exit 1
fi
command=build
case "$(basename "$builder")" in
  docker) export DOCKER_BUILDKIT=1 ;;
  buildah*) command=bud ;;
esac

flags=()
[ -z "${BASE_IMAGE:-}" ] || flags+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
[ -z "${PIP_CONF:-}" ] || flags+=(--secret "id=pip_conf,src=$PIP_CONF")
read -ra more <<<"${BUILD_FLAGS:-}"
# Who looks at an image, or signs it, sees which commit it was made of.
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision=$revision-dirty
tag=${TAG:-$(sed -n 's/^appVersion: *"\(.*\)"$/\1/p' charts/headrace/Chart.yaml)}
registry=${REGISTRY:-}
suffix=
worker=()
vllm=(--build-arg TORCH_PACKAGES=worker-vllm-cuda --build-arg PACKAGES=worker-vllm --build-arg "DEBIAN_PACKAGES=gcc libc6-dev")
if [ "${CPU:-0}" = 1 ]; then
  worker=(--build-arg TORCH_VARIANT=cpu --build-arg CARRY_MODEL=1)
  vllm=(--build-arg PACKAGES=worker-vllm-cpu --build-arg DEBIAN_PACKAGES=libnuma1)
  suffix=-cpu
fi

build() { # NAME TAG FLAG...
  local image="${registry:+${registry%/}/}headrace-$1:$2" dockerfile="$1/Dockerfile"
  shift 2
  local labels=(--label "org.opencontainers.image.version=${image##*:}" --label "org.opencontainers.image.revision=$revision")
  [ -z "${SOURCE:-}" ] || labels+=(--label "org.opencontainers.image.source=$SOURCE")
  "$builder" "$command" "${flags[@]}" "${more[@]}" "${labels[@]}" "$@" -f "$dockerfile" -t "$image" .
  echo "built $image"
}
for name in ${IMAGES:-api worker}; do
  case $name in
    api) build api "$tag" ;;
    worker) build worker "$tag$suffix" "${worker[@]}" ;;
    worker-vllm) build worker "$tag-vllm$suffix" "${worker[@]}" "${vllm[@]}" ;;
    *) echo "there is no image '$name': api, worker or worker-vllm" >&2; exit 1 ;;
  esac
done
