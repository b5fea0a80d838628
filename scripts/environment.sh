# Sourced by demo.sh and test.sh: makes the virtual environment, or reuses it, and puts it on the PATH.
#
#   EAT_VENV   where the environment goes (default: .venv in the checkout)
#   PYTHON     which Python makes it (default: python3); 3.11 or 3.12
#
# install_environment FILE... installs what the requirement files list, in their order. Nothing is written outside the
# checkout and the environment.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
EAT_VENV=${EAT_VENV:-.venv}
mkdir -p "$(dirname "$EAT_VENV")"
EAT_VENV=$(cd "$(dirname "$EAT_VENV")" && pwd)/$(basename "$EAT_VENV")

install_environment() {
    local python=${PYTHON:-python3} stamp
    stamp="$EAT_VENV/installed-$(cat "$@" setup.py EAT/__init__.py | cksum | tr " " -)"
    if [ ! -x "$EAT_VENV/bin/python" ]; then
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
            echo "$python is $("$python" --version 2>&1), but Python 3.11 or 3.12 is needed; name one: PYTHON=python3.11 bash $0" >&2
            exit 2
        }
        echo "Making the virtual environment $EAT_VENV ..."
        "$python" -m venv "$EAT_VENV"
    fi
    export PATH="$EAT_VENV/bin:$PATH"
    export XDG_CACHE_HOME="$EAT_VENV/cache" MPLCONFIGDIR="$EAT_VENV/cache/matplotlib" PIP_NO_CACHE_DIR=1
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    export PYTHONWARNINGS="ignore::UserWarning,ignore::DeprecationWarning,ignore::FutureWarning"
    if [ -e "$stamp" ]; then
        return
    fi
    echo "Installing into it (a few minutes the first time) ..."
    # torch first and alone, so that no other package's requirement chooses another build of it.
    python -m pip install --quiet "$(grep '^torch==' requirements.txt)"
    local file
    for file in "$@"; do
        python -m pip install --quiet -r "$file"
    done
    python -m pip install --quiet --no-deps --no-build-isolation --editable .
    touch "$stamp"
}
