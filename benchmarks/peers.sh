#!/bin/sh
# Creates the virtual environment $1, unless it exists, and installs the requirements file $2.
# It uses uv if available, otherwise venv and pip.
set -eu
folder=$1
requirements=$2

case $folder in
.bench/* | .orchestrators/*)
    # Keep the environments out of git.
    mkdir -p "${folder%/*}"
    echo '*' >"${folder%/*}/.gitignore"
    ;;
esac
if command -v uv >/dev/null 2>&1; then
    [ -d "$folder" ] || uv venv --quiet --python "${PYTHON:-3.12}" "$folder"
    uv pip install --quiet --python "$folder/bin/python" -r "$requirements"
    exit
fi
[ -d "$folder" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
