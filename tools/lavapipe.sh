#!/usr/bin/env bash
# bash tools/lavapipe.sh: unpacks Mesa's software Vulkan driver from Debian 12's backports into node_modules/.cache/lavapipe,
# where the tests look for it. The release's own is too old for Dawn. Installs the libraries that it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
to=$PWD/node_modules/.cache/lavapipe
[ -f "$to/icd.json" ] && exit 0
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
mkdir -p "$stage/lists/partial" "$to"

# The mirror that this machine already uses, with the backports of its release, apart from its own lists.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' | grep -oEm1 'https?://[^ ]+/debian/?( |$)' || true)
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
echo "deb $mirror $release-backports main" >"$stage/backports.list"
from=(-o "Dir::Etc::sourcelist=$stage/backports.list" -o Dir::Etc::sourceparts=- -o "Dir::State::Lists=$stage/lists")
apt-get -qq "${from[@]}" update >&2
(cd "$stage" && apt-get -qq "${from[@]}" download mesa-vulkan-drivers >&2 && dpkg -x mesa-vulkan-drivers_*.deb "$stage/mesa")

library=$(find "$stage/mesa" -name libvulkan_lvp.so)
if ldd "$library" | grep -q 'not found'; then
  sudo=$( ((EUID == 0)) || echo sudo)
  DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq install -y --no-install-recommends libllvm15 libdrm2 libexpat1 \
    libwayland-client0 libx11-xcb1 libxcb-dri3-0 libxcb-present0 libxcb-randr0 libxcb-shm0 libxcb-sync1 libxcb-xfixes0 \
    libxshmfence1 libzstd1 >&2
fi
cp "$library" "$to/"
cat >"$to/icd.json" <<ICD
{ "ICD": { "api_version": "1.4.305", "library_path": "$to/libvulkan_lvp.so" }, "file_format_version": "1.0.0" }
ICD
