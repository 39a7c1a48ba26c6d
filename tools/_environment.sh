# Shared by tools/test and tools/demo: apt packages where root is available, and the virtual environment.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
# Compiled kernels stay within the project; two projects, or a read-only home, do not disturb each other.
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$venv/cache}"

say() { printf '==> %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

apt_packages_missing() {
  local package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q ' installed$' || printf '%s\n' "$package"
  done
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# install_apt_packages PACKAGE...: what is missing of these and of what the environment itself needs; needs root.
install_apt_packages() {
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || return 0
  local wanted=(libgl1 libglib2.0-0 libgomp1 "$@") missing=() python
  if ! python="$(find_python)"; then
    wanted=(python3 python3-venv "${wanted[@]}")
  elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    wanted=(python3-venv "${wanted[@]}")
  fi
  # Not mapfile < <(...): a bare chroot may lack /dev/fd. Package names hold no blanks.
  # shellcheck disable=SC2207
  missing=($(apt_packages_missing "${wanted[@]}"))
  [ "${#missing[@]}" -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    say "not root: these apt packages stay missing: ${missing[*]}"
    return 0
  fi
  say "installing apt packages: ${missing[*]}"
  # Not fatal: without network the checks that need them are skipped, and said.
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null; then
    say "apt could not install all of: ${missing[*]}"
  fi
}

# make_environment EXTRAS: .venv with dicomplan in editable form; EXTRAS is "" or "[dev]". Done again only when
# pyproject.toml changed, or when more extras are wanted than are there.
make_environment() {
  local extras="$1" python stamp digest
  if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    python="$(find_python)" || fail "Python 3.11 or newer is needed (Debian: apt-get install python3 python3-venv)"
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" ||
      fail "the virtual environment could not be made (Debian: apt-get install python3-venv)"
  fi
  digest="$(sha256sum < "$root/pyproject.toml" | cut -d' ' -f1)"
  stamp="$venv/.installed"
  if [ -f "$stamp" ] && grep -qxF -e "$digest $extras" -e "$digest [dev]" "$stamp"; then
    return 0
  fi
  say "installing dicomplan${extras} into $venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$extras" ||
    fail "pip could not install dicomplan$extras"
  printf '%s\n' "$digest $extras" > "$stamp"
}
