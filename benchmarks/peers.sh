#!/bin/sh
# Makes the environment in the folder $1, if there is none, and installs what the file $2 lists:
# with uv where there is one, else with venv and pip.
set -eu
folder=$1
listed=$2

case $folder in
.bench/*)
    # Nothing below it is the repository's.
    mkdir -p .bench
    echo '*' >.bench/.gitignore
    ;;
esac
if command -v uv >/dev/null 2>&1; then
    [ -d "$folder" ] || uv venv --quiet --python "${PYTHON:-3.12}" "$folder"
    uv pip install --quiet --python "$folder/bin/python" -r "$listed"
    exit
fi
[ -d "$folder" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$listed"
